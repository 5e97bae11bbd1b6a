"""Fingerprint of a data set, by which a run recognizes its data after they were moved or changed.

Does not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cvae.errors import count_of

BLOCK_DIGITS = 8
"""Number of hexadecimal digits of the hash of a block."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Summary of the content of a data set. It does not depend on the path.

    Attributes:
        kind: registered name of the data set, such as "folder".
        images: number of images in each split.
        image_shape: (C, H, W).
        sha256: hash of all images, labels and class names, or conditions and their values.
        blocks: concatenated hashes of equal blocks of images. Small data sets have one image per block.
    """

    kind: str
    images: Mapping[str, int]
    image_shape: tuple[int, int, int]
    sha256: str
    blocks: str

    def find_difference(self, other: "Fingerprint") -> str | None:
        """Describe how the content of another data set differs from this one, or return None if it is the same."""
        if self.sha256 == other.sha256:
            return None
        if self.images != other.images:
            counts = [", ".join(f"{name} {count:,}" for name, count in f.images.items()) for f in (other, self)]
            return f"the numbers of images are {counts[0]}, not {counts[1]}"
        if self.image_shape != other.image_shape:
            shapes = ["x".join(map(str, f.image_shape)) for f in (other, self)]
            return f"the images are of shape {shapes[0]}, not {shapes[1]}"
        blocks, count = self._split_blocks(), sum(self.images.values())
        differing = sum(a != b for a, b in zip(blocks, other._split_blocks(), strict=False))
        if not differing:
            return "the class names differ, or the conditions"
        at_least = "at least " if count > len(blocks) else ""
        return f"{at_least}{differing:,} of {count_of(count, 'image')} or labels differ"

    def _split_blocks(self) -> list[str]:
        return [self.blocks[i : i + BLOCK_DIGITS] for i in range(0, len(self.blocks), BLOCK_DIGITS)]
