"""Data sets: public ones, folders, tables, array files and bundled digits, as uint8 images in memory or on disk."""

from cvae.data.dataset import Dataset, Split, condition_rows, describe_conditions, list_conditions, load_dataset
from cvae.data.disk_images import DiskImages

__all__ = ["Dataset", "DiskImages", "Split", "condition_rows", "describe_conditions", "list_conditions", "load_dataset"]
