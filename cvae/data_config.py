"""Choice of a data set, as a frozen dataclass whose fields are command-line flags. Does not import torch."""

from dataclasses import dataclass

from cvae.errors import UsageError
from cvae.flags import Interval, canonical_data, check_values, flag_field, parse_sides, parse_size
from cvae.model_config import MAX_SIDE, MIN_SIDE

GROUPS = ("Model", "Data", "Objective", "Optimization", "Hardware", "Output")
"""Headings under which `--help` and the reference list the flags, in this order."""
MODEL, DATA, OBJECTIVE, OPTIMIZATION, HARDWARE, OUTPUT = GROUPS


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Choice of a data set and its images, for `cvae.data.load_dataset`.

    The fields are flags of `cvae train`; `Flag.automatic` says what a value of `None` means.
    """

    data: str = flag_field(
        "mnist-small",
        DATA,
        "Data set: a name, folder:PATH, folder-classes:PATH, table:PATH or npz:PATH.",
        canonical=canonical_data,
        resumable=True,
        searchable=False,
    )
    data_dir: str | None = flag_field(
        None,
        DATA,
        "Folder for downloaded data sets and decoded images.",
        metavar="PATH",
        automatic="~/.cache/cvae",
        resumable=True,
        machine=True,
    )
    size: int | str | None = flag_field(
        None,
        DATA,
        "Size in pixels to scale images to: the side of a square, or height and width.",
        metavar="HxW",
        automatic="original size; folders: 64",
        parse=parse_size,
        searchable=False,
    )
    conditional: bool = flag_field(
        False, MODEL, "Train with the labels and other conditions of the data, to generate images by them."
    )
    condition: tuple[str, ...] = flag_field(
        (),
        DATA,
        "Kind of a condition (category, number or attributes), and its columns if they have other names: age:number, "
        "size=n, traits:attributes=smiling,hat.",
        metavar="NAME:KIND",
        canonical=frozenset,
        searchable=False,
    )
    ignore: tuple[str, ...] = flag_field(
        (),
        DATA,
        "Columns that are not conditions.",
        metavar="COLUMN",
        canonical=frozenset,
        searchable=False,
    )
    path_column: str | None = flag_field(
        None,
        DATA,
        "Column of a table with the paths of the images.",
        metavar="COLUMN",
        automatic="file_name, file, path or image",
        searchable=False,
    )
    binarize: str = flag_field(
        "none",
        DATA,
        "Sample binary pixels, with the grey value as the probability of white: once (static) or per batch (dynamic).",
        choices=("none", "dynamic", "static"),
        searchable=False,
    )
    validation: float = flag_field(
        0.1,
        DATA,
        "Fraction of the training images to hold out for selecting the best weights, if the data have no others.",
        interval=Interval(minimum=0, below=1),
        searchable=False,
    )
    without: tuple[str, ...] = flag_field(
        (),
        DATA,
        "Classes to exclude.",
        name="exclude-class",
        aliases=("without",),
        canonical=frozenset,
        searchable=False,
    )
    limit: int | None = flag_field(
        None, DATA, "Train only on N images, chosen with the seed.", interval=Interval(minimum=1)
    )
    seed: int = flag_field(
        0,
        OPTIMIZATION,
        "Seed for the initial weights, the noise, the order of the images, and the choice of images.",
        interval=Interval(minimum=0, maximum=2**32 - 1),
        searchable=False,
    )

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))
        for side in self.sides or ():
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise UsageError(f"size {self.size}: each side must be {MIN_SIDE} to {MAX_SIDE} pixels")

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width in pixels to scale images to; None for the original size."""
        return parse_sides(self.size)
