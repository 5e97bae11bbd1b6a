"""Hyperparameter search: the study, the search space, and the report."""

import warnings

# In a notebook without ipywidgets, optuna imports a progress bar that warns about it, but is never used.
warnings.filterwarnings("ignore", "IProgress not found")
