"""Anomaly detection with exported files: scores, a detector and its calibration. Does not import torch."""
