"""Options and helpers that several commands share."""

import json
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli import _completion
from cvae.cli._flags import field_flag
from cvae.config import DATA, HARDWARE, MODEL, OUTPUT, DataConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image


# -- arguments and options: the model ----------------------------------------------------------------------------------

MODEL_HELP = (
    "Run folder, exported file, zoo model or hf://owner/name. [default: the newest run, else the zoo's default model]"
)

ModelName = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=_completion.models)]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=MODEL_HELP,
        rich_help_panel=MODEL,
        autocompletion=_completion.models,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Device: cpu, cuda, auto or an onnxruntime provider.",
        rich_help_panel=HARDWARE,
        autocompletion=_completion.choices("cpu", "cuda", "auto"),
    ),
]

# -- arguments and options: labels and noise ---------------------------------------------------------------------------

Label = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Class of the images, by name.", autocompletion=_completion.labels),
]
Digit = Annotated[
    str | None,
    typer.Option(metavar="DIGIT", help="Same as --label, for models of digits.", autocompletion=_completion.labels),
]
LabelIndex = Annotated[int | None, typer.Option(metavar="N", help="Class of the images, by index from 0.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the noise. [default: random, and printed]")]

# -- arguments and options: data and output ----------------------------------------------------------------------------

Data = Annotated[str | None, field_flag(DataConfig, "data", "the training data set")]
DataDir = Annotated[str | None, field_flag(DataConfig, "data_dir", "~/.cache/cvae")]
Size = Annotated[str | None, field_flag(DataConfig, "size", "as in training")]
Binarize = Annotated[
    str | None, field_flag(DataConfig, "binarize", "as in training, or none for an exported file without its run")
]
SplitName = Annotated[
    str,
    typer.Option(
        metavar="train|validation|test",
        help="Split of the data set.",
        rich_help_panel=DATA,
        autocompletion=_completion.choices("train", "validation", "test"),
    ),
]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Image file to write.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]

# -- output ------------------------------------------------------------------------------------------------------------


def echo(text: str) -> None:
    """Print a message for the user to standard error."""
    print(text, file=sys.stderr)


def report(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Print the result of a command to standard output, as JSON or text."""
    print(json.dumps(result) if as_json else text)


def save_image(image: "Image.Image", out: Path) -> None:
    """Save an image, enlarged if it is small, and display it if the terminal supports images."""
    from cvae import imaging

    image = imaging.enlarge(image)
    imaging.save(image, out)
    if sys.stderr.isatty():  # not standard output, which a script may read
        from cvae.imaging.terminal import inline_escape_sequence

        if sequence := inline_escape_sequence(image):
            echo(sequence)


@contextmanager
def show_progress() -> "Iterator[Callable[[str, int, int], None]]":
    """Yield a function (stage, done, total) that draws a progress bar for each stage, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    with ExitStack() as open_bars:
        bars: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                open_bars.close()
                bars[stage] = open_bars.enter_context(
                    typer.progressbar(length=total, label=f"{stage:20}", file=sys.stderr)
                )
            bars[stage].update(done - bars[stage].pos)

        yield update
