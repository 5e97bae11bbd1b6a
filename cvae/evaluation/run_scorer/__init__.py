"""Evaluation of runs: what needs torch."""

from cvae.evaluation.run_scorer.scorer import RunScorer

__all__ = ["RunScorer"]
