"""Deskewing, rotation and stroke thickness of grey images of digits, white on black."""

from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

SCALE = 4
"""Factor by which images are enlarged before distances are measured, as in Morpho-MNIST."""

MIN_RADIUS = 0.6 * SCALE
"""Half of the minimum width of an eroded stroke, in enlarged pixels."""

MIN_GAP_RADIUS = 0.5 * SCALE
"""Half of the minimum width of a gap between dilated strokes, in enlarged pixels."""

MARGIN = 3
"""Width in pixels of the frame around a digit in which a stroke can grow. Outside of it, nothing is computed."""


def compute_slant(image: np.ndarray) -> float:
    """Return the slant of an image (H, W): the shear mu11 / mu02, with the central moments mu of the grey values.

    It is 0 if x and y are uncorrelated, and positive for a stroke like a backslash.
    """
    y, x = np.indices(image.shape)
    weight = image / image.sum(dtype=float)
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return float((weight * x * y).sum() / (weight * y * y).sum())


def deskew_and_rotate(image: np.ndarray, angle: float) -> np.ndarray:
    """Deskew a digit by its moments, rotate it, move its bounding box to the centre, and enlarge it.

    A single resampling does all of it, so that the strokes are blurred only once.

    Args:
        image: (H, W) uint8.
        angle: degrees, counter-clockwise.

    Returns:
        Image (SCALE * H, SCALE * W) uint8.
    """
    height, width = image.shape
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    # from the deskewed and rotated image to the original one; y points down
    matrix = np.array([[1, compute_slant(image)], [0, 1]]) @ np.array([[cos, -sin], [sin, cos]])
    rows, columns = np.nonzero(_threshold(image))
    points = np.linalg.solve(matrix, np.array([columns, rows]) + 0.5)  # (2, N)
    centre = (points.min(1) + points.max(1)) / 2
    shift = matrix @ (centre - np.array([width / 2, height / 2]))
    coefficients = np.column_stack([matrix / SCALE, shift]).ravel()
    size = (SCALE * width, SCALE * height)
    return np.asarray(
        Image.fromarray(image).transform(size, Image.Transform.AFFINE, tuple(coefficients), Image.Resampling.BICUBIC)
    )


def change_thickness(enlarged: np.ndarray, thickness: float) -> np.ndarray:
    """Dilate or erode the strokes of a digit towards a mean thickness, and reduce it to its original size.

    Erosion never breaks a stroke, because the skeleton keeps a minimum width. Dilation stops before it closes a gap
    between two strokes or fills a loop. The thickness of the result can therefore differ from the requested one.

    Args:
        enlarged: result of `deskew_and_rotate`.
        thickness: mean thickness in pixels of the result.

    Returns:
        Image (H, W) uint8.
    """
    box = _bounding_box(enlarged, SCALE * MARGIN)
    stroke = _threshold(enlarged)[box]
    inside, skeleton = ndimage.distance_transform_edt(stroke), skeletonize(stroke)
    growth = SCALE * (thickness - _mean_width(inside, skeleton)) / 2
    # `level` is the signed distance in enlarged pixels to the edge of the new stroke, positive inside
    if growth < 0:
        core = MIN_RADIUS - ndimage.distance_transform_edt(~skeleton)
        level = np.maximum(inside - 0.5 + growth, core)
    else:
        outside = ndimage.distance_transform_edt(~stroke)
        level = np.where(stroke, inside - 0.5, 0.5 - outside) + _limit_growth(outside, growth)
    coverage = np.zeros(enlarged.shape)
    coverage[box] = np.clip(level + 0.5, 0, 1)
    height, width = (side // SCALE for side in coverage.shape)
    return np.rint(255 * coverage.reshape(height, SCALE, width, SCALE).mean((1, 3))).astype(np.uint8)


def measure_thickness(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean thickness of the strokes of each image in pixels (N,) float32.

    Twice the distance to the background, averaged over the skeleton of the enlarged image, as in Morpho-MNIST (Castro
    et al. 2019, https://arxiv.org/abs/1809.05298). An image without strokes has the thickness 0.

    Args:
        images: images (N, H, W) or (N, 1, H, W), uint8 or float in [0, 1].
    """
    return np.array([_measure_thickness(image.squeeze()) for image in images], np.float32)


def _measure_thickness(image: np.ndarray) -> float:
    grey = image if image.dtype == np.uint8 else np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    grey = grey[_bounding_box(grey, 1)]
    size = (SCALE * grey.shape[1], SCALE * grey.shape[0])
    stroke = _threshold(np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)))
    return _mean_width(ndimage.distance_transform_edt(stroke), skeletonize(stroke))


def _threshold(image: np.ndarray) -> np.ndarray:
    """Return which pixels have more than half of the maximum brightness, within a dark frame."""
    stroke = image > max(image.max() / 2, 1)
    stroke[[0, -1]] = stroke[:, [0, -1]] = False  # strokes end at the border of the image
    return stroke


def _bounding_box(image: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the bounding box of what is not black, with a margin. Of a black image, return a single pixel."""
    box = ndimage.find_objects((image > 0).astype(np.uint8))
    if not box:
        return slice(1), slice(1)
    rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in box[0])
    return rows, columns


def _mean_width(inside: np.ndarray, skeleton: np.ndarray) -> float:
    """Return the mean width of a stroke in pixels of the original size.

    Distances are between centres of pixels. For a stroke of odd width w, twice the distance is w + 1, and for one of
    even width, it is w: on average 0.5 too much.
    """
    return float(2 * inside[skeleton].mean() - 0.5) / SCALE if skeleton.any() else 0.0


def _limit_growth(outside: np.ndarray, growth: float) -> float:
    """Reduce the growth of a stroke until every gap in the background stays open, and no new one is cut off."""
    components = ndimage.label(outside > 0)[1]
    for factor in (1, 0.75, 0.5, 0.25):
        if ndimage.label(outside > factor * growth + MIN_GAP_RADIUS)[1] == components:
            return factor * growth
    return 0.0
