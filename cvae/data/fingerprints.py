"""Computation of the fingerprint of a data set."""

import hashlib
import json
import math

import numpy as np

from cvae.data.dataset import Dataset, Split, list_splits
from cvae.data.disk_images import DiskImages, hash_bytes, hash_images
from cvae.fingerprint import BLOCK_DIGITS, Fingerprint

MAX_BLOCKS = 256
"""Maximum number of blocks of a fingerprint."""

CHUNK_BYTES = 2**22
"""Number of bytes of images to read at a time."""


def compute_fingerprint(dataset: Dataset, kind: str) -> Fingerprint:
    """Compute the fingerprint of a data set before it is split or changed.

    The hashes of the images in a folder come from the image cache. Other images are read once.

    Args:
        dataset: the data set as its factory has returned it.
        kind: registered name of the data set.
    """
    splits = list_splits(dataset)
    # (N, 2): the hash of each image, and its label or the hash of its conditions
    table = np.concatenate(
        [np.stack([_hash_images(split.images), _summarize_conditions(split)], axis=1) for split in splits.values()]
    )
    counts = {name: len(split) for name, split in splits.items()}
    conditions = [condition.to_json() for condition in dataset.conditions]
    header = json.dumps([counts, dataset.classes, *([conditions] if conditions else [])])
    blocks = np.array_split(table, min(len(table), MAX_BLOCKS))
    return Fingerprint(
        kind=kind,
        images=counts,
        image_shape=dataset.train.images.shape[1:],
        sha256=hashlib.sha256(header.encode() + table.tobytes()).hexdigest(),
        blocks="".join(hashlib.sha256(block.tobytes()).hexdigest()[:BLOCK_DIGITS] for block in blocks),
    )


def _summarize_conditions(split: Split) -> np.ndarray:
    """Return the label of each image, or a hash of the values of its conditions, (N,) uint64."""
    if split.rows is not None:
        rows = split.rows.astype("<i8" if split.rows.ndim == 1 else "<f4")
        return np.array([hash_bytes(row.tobytes()) for row in rows], "<u8")
    labels = np.full(len(split), -1) if split.labels is None else split.labels
    return labels.astype("<i8").view("<u8")


def _hash_images(images: np.ndarray | DiskImages) -> np.ndarray:
    """Return the hash of each image, (N,) uint64."""
    if isinstance(images, DiskImages) and images.hashes is not None:
        return images.hashes[images.index]
    step = max(1, CHUNK_BYTES // math.prod(images.shape[1:]))
    chunks = (hash_images(images[first : first + step]) for first in range(0, len(images), step))
    return np.concatenate([np.empty(0, "<u8"), *chunks])
