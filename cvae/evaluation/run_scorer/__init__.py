"""Evaluation of runs with torch."""

from cvae.evaluation.run_scorer.scorer import RunScorer

__all__ = ["RunScorer"]
