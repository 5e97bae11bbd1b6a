"""Plots of models and training runs, from exported files and run folders. Does not import torch."""
