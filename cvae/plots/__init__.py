"""Plots of a model and of its training, from exported files and run folders. Torch-free."""
