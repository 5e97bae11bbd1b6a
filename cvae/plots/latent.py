"""Codes as points of a plane.

t-SNE: https://jmlr.org/papers/v9/vandermaaten08a.html, UMAP: https://arxiv.org/abs/1802.03426
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from cvae import imaging
from cvae.errors import CvaeError, UsageError, suggest
from cvae.plots.codes import Codes
from cvae.plots.style import MARKERS, OKABE_ITO, colours, plain

METHODS = ("tsne", "pca", "umap")

ACROSS = 24
"""Thumbnails that fit beside each other."""


def check_method(method: str) -> None:
    """Raises:
    UsageError: there is no such method.
    CvaeError: its package is not installed.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method!r} is unknown; {suggest(method, METHODS)}")
    if method == "umap" and find_spec("umap") is None:
        raise CvaeError("--method umap needs a package that is not installed: pip install umap-learn")


def flatten(codes: np.ndarray, method: str = "tsne", *, perplexity: float = 30, seed: int = 0) -> np.ndarray:
    """Codes (N, Z) -> places in the plane (N, 2).

    Raises:
        UsageError: there is no such method, or there are too few codes for it, or all are the same.
        CvaeError: its package is not installed.
    """
    check_method(method)
    count, dimensions = codes.shape
    if count < 3:
        raise UsageError(f"{count} codes are too few for a map; at least 3, with --limit or another --split")
    if method == "tsne" and perplexity >= count:
        raise UsageError(
            f"--perplexity {perplexity:g} needs more than {perplexity:g} images, here are {count}; "
            f"say --perplexity {max(1, (count - 1) // 3)}, or use more images"
        )
    if not np.ptp(codes, axis=0).any():
        raise UsageError(f"all {count} codes are the same, as if the images were: there is nothing to map")
    if dimensions == 1:
        codes = np.pad(codes, ((0, 0), (0, 1)))  # (N, 1) -> (N, 2): a line in the plane
    return _estimator(method, perplexity, seed).fit_transform(codes)


def _estimator(method: str, perplexity: float, seed: int) -> Any:
    if method == "pca":
        return PCA(2, random_state=seed)
    if method == "tsne":
        return TSNE(perplexity=perplexity, random_state=seed)
    from umap import UMAP

    return UMAP(random_state=seed, n_jobs=1)  # a seed means one thread to it anyway, with a warning


def draw(codes: Codes, places: np.ndarray, title: str, *, thumbnails: bool = False) -> Figure:
    """The codes at their places (N, 2), by class where the data have classes; `thumbnails` shows some of the images."""
    figure = Figure(figsize=(8, 7))
    axes = figure.add_axes((0, 0, 1, 1))  # the legend lies outside, where `cvae.plots.style.save` makes room for it
    axes.set_aspect("equal", "datalim")
    axes.set(xticks=[], yticks=[])
    axes.set_title(plain(title))
    labels, classes = codes.images.labels, codes.classes
    if labels is None or classes is None:
        colour = [OKABE_ITO[0]] * len(places)
        axes.scatter(places[:, 0], places[:, 1], s=22, color=OKABE_ITO[0], linewidths=0, alpha=0.8)
    else:
        palette = colours(len(classes))
        colour = [palette[label] for label in labels]
        _points(axes, places, labels, classes, alpha=0.4 if thumbnails else 0.8)
        if not thumbnails:
            _names(axes, places, labels, classes)
    if thumbnails:
        _thumbnails(axes, places, codes, colour)
    return figure


def _points(axes: Axes, places: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], alpha: float) -> None:
    """A colour and a shape for each class, and a legend."""
    palette, present = colours(len(classes)), np.unique(labels)
    for label in present:
        look: dict[str, Any] = {"color": palette[label], "marker": MARKERS[label % len(MARKERS)]}
        points = places[labels == label]
        axes.scatter(points[:, 0], points[:, 1], s=22, linewidths=0, alpha=alpha, label=plain(classes[label]), **look)
    columns = -(-len(present) // 30)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns, markerscale=1.8, frameon=False)
    for handle in legend.legend_handles:
        assert handle is not None
        handle.set_alpha(1)


def _names(axes: Axes, places: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """The name of each class in the middle of its points, unless others prevail there or it would cover a name."""
    assert isinstance(axes.figure, Figure)
    axes.figure.draw_without_rendering()  # how far a text goes is known only then
    present = np.unique(labels)
    style: dict[str, Any] = {"fontsize": 14 if len(present) <= 10 else 9, "fontweight": "bold", "zorder": 5}
    style["path_effects"] = [withStroke(linewidth=4, foreground="white")]
    taken: list[Bbox] = []
    for label in present:
        across, up = middle = np.median(places[labels == label], axis=0)
        if _share(places, labels == label, middle) <= 0.5:
            continue
        text = axes.text(across, up, plain(classes[label]), ha="center", va="center", **style)
        if (box := text.get_window_extent()).count_overlaps(taken):
            text.remove()
        else:
            taken.append(box)


def _share(places: np.ndarray, of_class: np.ndarray, place: np.ndarray) -> float:
    """How many of the places (N, 2) around one are of a class (N,): of 20, or as many as the class has."""
    nearest = np.argsort(((places - place) ** 2).sum(1))[: min(20, of_class.sum())]
    return float(of_class[nearest].mean())


def _thumbnails(axes: Axes, places: np.ndarray, codes: Codes, colour: list[str]) -> None:
    """Images at their places, framed in the colour of their class, as many as do not cover each other."""
    side = np.ptp(places, axis=0).max() / ACROSS
    _, _, height, width = codes.images.images.shape
    across, up = side * width / max(width, height), side * height / max(width, height)
    axes.autoscale(False)  # else `imshow` sets limits to those of an image
    for i in apart(places, 1.1 * side):
        left, bottom = places[i] - (across / 2, up / 2)
        image = np.asarray(imaging.to_pil(codes.images.images[i : i + 1][0] / np.float32(255)))
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(left, left + across, bottom, bottom + up), zorder=3)
        axes.add_patch(Rectangle((left, bottom), across, up, fill=False, edgecolor=colour[i], linewidth=1.5, zorder=4))
    axes.autoscale(True)
    axes.use_sticky_edges = False  # no image on the frame


def apart(places: np.ndarray, least: float) -> list[int]:
    """Numbers of places (N, 2) of which each two are `least` apart across or along, taken at random until none fits."""
    kept: list[int] = []
    for i in np.random.default_rng(0).permutation(len(places)):
        if all(np.abs(places[kept] - places[i]).max(1) >= least):
            kept.append(int(i))
    return kept
