"""Data sets: named ones, image folders, arrays and the bundled digits, as uint8 images in memory or in a file."""

from cvae.data.dataset import Dataset, Split, load_dataset
from cvae.data.rows import Rows

__all__ = ["Dataset", "Rows", "Split", "load_dataset"]
