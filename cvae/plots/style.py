"""What all figures of matplotlib share: colours that everybody can tell apart, and how a figure is saved."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from cvae.atomic import atomic_write
from cvae.errors import UsageError

GREY = "#767676"

DPI = 144
"""Pixels an inch, in a PNG."""

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
"""Eight colours for every kind of eye (https://jfly.uni-koeln.de/color/), the palest last."""

PETROFF = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Ten, as far apart as ten can be (https://arxiv.org/abs/2107.02270)."""

MARKERS = "osD^vP*<X>p"
"""Eleven shapes of a point, so that with ten colours 110 classes differ; the two greys have very different ones."""

ENDINGS = (".png", ".svg")


def colours(count: int) -> list[str]:
    """A colour for each of `count` things; beyond ten they come again, and something else must tell things apart."""
    palette = OKABE_ITO if count <= len(OKABE_ITO) else PETROFF
    return [palette[i % len(palette)] for i in range(count)]


def plain(text: str) -> str:
    """A name of the user's as a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def check_ending(path: Path) -> None:
    """Raises:
    UsageError: figures are not written with this ending.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{str(path)!r}: figures are not written with the ending {path.suffix!r}; try .png or .svg")


def save(figure: Figure, path: Path) -> None:
    """Save as PNG or SVG, by the path's ending, whole or not at all; the same figure gives the same bytes.

    Raises:
        UsageError: the path has another ending.
        CvaeError: the file can't be written.
    """
    check_ending(path)
    undated = {"Date": None} if path.suffix.lower() == ".svg" else None
    with rc_context({"svg.hashsalt": "cvae"}), atomic_write(path) as temporary_path:
        figure.savefig(temporary_path, dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata=undated)
