"""Evaluation of models: likelihood bounds, reconstructions, and the fidelity of generated images.

Only `run_scorer` imports torch.
"""
