"""Hyperparameter search: the study, the search space, and the report."""
