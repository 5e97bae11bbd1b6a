"""Shared style of matplotlib figures: accessible colours, and saving to files."""

import io
from pathlib import Path

import matplotlib.figure
from matplotlib import rc_context

from cvae.atomic import atomic_write
from cvae.errors import UsageError

GREY = "#767676"

DPI = 144
"""Pixels per inch in a PNG."""

PADDING = 0.12
"""Margin of a figure in inches."""

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
"""Eight colours that colour-blind people can tell apart, with the palest last: https://jfly.uni-koeln.de/color/."""

PETROFF = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Ten colours that are as distinct as possible: https://arxiv.org/abs/2107.02270."""

MARKERS = "osD^vP*<X>p"
"""Eleven marker shapes. With ten colours, they distinguish 110 classes. In this order, the two greys of `PETROFF` get
very different shapes."""

SUFFIXES = (".png", ".svg")
"""Suffixes of the file formats in which figures can be saved."""


class Figure(matplotlib.figure.Figure):
    """Figure that a notebook displays even if the notebook does not use pyplot."""

    def _repr_png_(self) -> bytes:
        """Return the PNG file that a notebook displays."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=PADDING)
        return file.getvalue()


def colours(count: int) -> list[str]:
    """Return `count` colours. Colours repeat after ten, so more than ten classes also need different markers."""
    palette = OKABE_ITO if count <= len(OKABE_ITO) else PETROFF
    return [palette[i % len(palette)] for i in range(count)]


def escape_math(text: str) -> str:
    """Escape dollar signs, which matplotlib would take for the delimiters of a formula."""
    return text.replace("$", r"\$")


def check_suffix(path: Path) -> None:
    """Check that the suffix of a path is that of a format in which figures can be saved.

    Raises:
        UsageError: If the suffix is not in `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{str(path)!r}: figures can't be saved as {path.suffix!r}; use .png or .svg")


def save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Save a figure atomically as PNG or SVG, depending on the path's suffix. The same figure gives the same bytes.

    Raises:
        UsageError: If the suffix is not in `SUFFIXES`.
        CvaeError: If the file can't be written.
    """
    check_suffix(path)
    format = path.suffix.lower()[1:]
    metadata = {"Date": None} if format == "svg" else None
    with rc_context({"svg.hashsalt": "cvae"}), atomic_write(path) as temporary_path:
        figure.savefig(
            temporary_path, format=format, dpi=DPI, bbox_inches="tight", pad_inches=PADDING, metadata=metadata
        )
