"""Data sets: named ones, image folders, arrays and the bundled digits, as uint8 images in memory."""

from cvae.data.dataset import Dataset, Split, load_dataset

__all__ = ["Dataset", "Split", "load_dataset"]
