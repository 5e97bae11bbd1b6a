"""Maps of latent codes: two-dimensional projections, drawn as scatter plots.

t-SNE: https://jmlr.org/papers/v9/vandermaaten08a.html, UMAP: https://arxiv.org/abs/1802.03426
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from cvae import imaging
from cvae.errors import CvaeError, UsageError, suggest
from cvae.plots.codes import Codes
from cvae.plots.style import MARKERS, OKABE_ITO, Figure, colours, escape_math

METHODS = ("tsne", "pca", "umap")

THUMBNAILS_PER_SIDE = 24
"""Number of thumbnails that fit along the longer side of the map."""


def check_method(method: str) -> None:
    """Check that a projection method exists and is installed.

    Raises:
        UsageError: If the method is unknown.
        CvaeError: If the package of the method is not installed.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method!r} is unknown; {suggest(method, METHODS)}")
    if method == "umap" and find_spec("umap") is None:
        raise CvaeError("--method umap needs a package that is not installed: pip install umap-learn")


def project(codes: np.ndarray, method: str = "tsne", *, perplexity: float = 30, seed: int = 0) -> np.ndarray:
    """Project codes (N, Z) to two dimensions, (N, 2).

    Args:
        codes: the codes.
        method: "tsne", "pca" or "umap".
        perplexity: perplexity of t-SNE, roughly the number of neighbours that it considers for each code.
        seed: seed of the projection.

    Raises:
        UsageError: If the method is unknown, there are too few codes for the method, or all codes are the same.
        CvaeError: If the package of the method is not installed.
    """
    check_method(method)
    count, dimensions = codes.shape
    if count < 3:
        raise UsageError(f"{count} codes are too few for a map; use at least 3, with --limit or another --split")
    if method == "tsne" and perplexity >= count:
        raise UsageError(
            f"--perplexity {perplexity:g} needs more than {perplexity:g} images, but there are {count}; "
            f"use --perplexity {max(1, (count - 1) // 3)}, or use more images"
        )
    if not np.ptp(codes, axis=0).any():
        raise UsageError(f"all {count} codes are the same, so there is nothing to map; use other images")
    if dimensions == 1:
        codes = np.pad(codes, ((0, 0), (0, 1)))  # (N, 1) -> (N, 2), a line
    return _make_estimator(method, perplexity, seed).fit_transform(codes)


def _make_estimator(method: str, perplexity: float, seed: int) -> Any:
    if method == "pca":
        return PCA(2, random_state=seed)
    if method == "tsne":
        return TSNE(perplexity=perplexity, random_state=seed)
    from umap import UMAP

    return UMAP(random_state=seed, n_jobs=1)  # with a seed, UMAP uses one thread anyway, but warns without n_jobs=1


def draw(codes: Codes, points: np.ndarray, title: str, *, thumbnails: bool = False) -> Figure:
    """Draw projected codes as points, coloured by class if the data have classes.

    Args:
        codes: the codes, with their images and labels.
        points: projected codes, (N, 2).
        title: title of the figure.
        thumbnails: whether to draw some of the images at their points.
    """
    figure = Figure(figsize=(8, 7))
    axes = figure.add_axes((0, 0, 1, 1))  # `cvae.plots.style.save` makes room for the legend outside the axes
    axes.set_aspect("equal", "datalim")
    axes.set(xticks=[], yticks=[])
    axes.set_title(escape_math(title))
    labels, classes = codes.images.labels, codes.classes
    if labels is None or classes is None:
        point_colours = [OKABE_ITO[0]] * len(points)
        axes.scatter(points[:, 0], points[:, 1], s=22, color=OKABE_ITO[0], linewidths=0, alpha=0.8)
    else:
        palette = colours(len(classes))
        point_colours = [palette[label] for label in labels]
        _scatter(axes, points, labels, classes, alpha=0.4 if thumbnails else 0.8)
        if not thumbnails:
            _annotate_classes(axes, points, labels, classes)
    if thumbnails:
        _draw_thumbnails(axes, points, codes, point_colours)
    return figure


def _scatter(axes: Axes, points: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], alpha: float) -> None:
    """Draw the points of each class in its own colour and with its own marker, and add a legend."""
    palette, present = colours(len(classes)), np.unique(labels)
    for label in present:
        style: dict[str, Any] = {"color": palette[label], "marker": MARKERS[label % len(MARKERS)], "s": 22}
        members, name = points[labels == label], escape_math(classes[label])
        axes.scatter(members[:, 0], members[:, 1], linewidths=0, alpha=alpha, label=name, **style)
    columns = -(-len(present) // 30)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns, markerscale=1.8, frameon=False)
    for handle in legend.legend_handles:
        assert handle is not None
        handle.set_alpha(1)


def _annotate_classes(axes: Axes, points: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Write the name of each class at the median of its points.

    A name is omitted if most points around it belong to other classes, or if it would overlap another name.
    """
    assert isinstance(axes.figure, Figure)
    axes.figure.draw_without_rendering()  # lays out the axes, so that the extents of the names are final
    present = np.unique(labels)
    style: dict[str, Any] = {"fontsize": 14 if len(present) <= 10 else 9, "fontweight": "bold", "zorder": 5}
    style["path_effects"] = [withStroke(linewidth=4, foreground="white")]
    boxes: list[Bbox] = []
    for label in present:
        x, y = centre = np.median(points[labels == label], axis=0)
        if _class_share(points, labels == label, centre) <= 0.5:
            continue
        text = axes.text(x, y, escape_math(classes[label]), ha="center", va="center", **style)
        if (box := text.get_window_extent()).count_overlaps(boxes):
            text.remove()
        else:
            boxes.append(box)


def _class_share(points: np.ndarray, in_class: np.ndarray, centre: np.ndarray) -> float:
    """Return the share of a class among the points nearest to `centre`: 20 points, or the size of a smaller class."""
    nearest = np.argsort(((points - centre) ** 2).sum(1))[: min(20, in_class.sum())]
    return float(in_class[nearest].mean())


def _draw_thumbnails(axes: Axes, points: np.ndarray, codes: Codes, point_colours: list[str]) -> None:
    """Draw as many images as fit without overlap, each at its point, with a frame in the colour of its class."""
    size = np.ptp(points, axis=0).max() / THUMBNAILS_PER_SIDE
    _, _, height, width = codes.images.images.shape
    image_width, image_height = size * width / max(width, height), size * height / max(width, height)
    axes.autoscale(False)  # `imshow` would set the axis limits to the extent of one image
    for i in thin_out(points, 1.1 * size):
        left, bottom = points[i] - (image_width / 2, image_height / 2)
        image = np.asarray(imaging.to_pil(codes.images.images[i : i + 1][0] / np.float32(255)))
        extent = (left, left + image_width, bottom, bottom + image_height)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, zorder=3)
        frame: dict[str, Any] = {"fill": False, "edgecolor": point_colours[i], "linewidth": 1.5, "zorder": 4}
        axes.add_patch(Rectangle((left, bottom), image_width, image_height, **frame))
    axes.autoscale(True)
    axes.use_sticky_edges = False  # leave a margin between the images and the frame


def thin_out(points: np.ndarray, min_distance: float) -> list[int]:
    """Return the indices of a random maximal set of points (N, 2) with pairwise distances of at least `min_distance`.

    The distance is the larger of the horizontal and the vertical distance.
    """
    indices: list[int] = []
    for i in np.random.default_rng(0).permutation(len(points)):
        if all(np.abs(points[indices] - points[i]).max(1) >= min_distance):
            indices.append(int(i))
    return indices
