"""Options and helpers that several commands share."""

import functools
import inspect
import json
import os
import shlex
import sys
import time
import typing
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cvae.cli import _completion
from cvae.cli._flags import field_flag
from cvae.data_config import DATA, HARDWARE, MODEL, OUTPUT, DataConfig
from cvae.errors import CvaeError, UsageError
from cvae.messages import print_message
from cvae.text import clean_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cvae.api.image_results import Result

Command = TypeVar("Command", bound="Callable[..., Any]")

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


def add_model_option(parameter: str = "model") -> "Callable[[Command], Command]":
    """Return a decorator that adds the option -m to a command that takes its model as the argument `parameter`.

    The command receives the model as this argument, whether the user sets the argument or the option.
    """

    def decorate(command: Command) -> Command:
        parameters = dict(inspect.signature(command).parameters)
        argument = parameters[parameter]
        kind, metadata = typing.get_args(argument.annotation)
        option = typer.Option(
            "--model",
            "-m",
            metavar=metadata.metavar,
            help=f"Same as the argument {metadata.metavar}.",
            rich_help_panel=MODEL,
            autocompletion=_completion.models,
        )
        annotation = Annotated[kind, option]  # type: ignore[valid-type]
        added = inspect.Parameter("model_option", argument.kind, default=None, annotation=annotation)

        @functools.wraps(command)
        def wrapper(model_option: Any = None, **values: Any) -> Any:
            values[parameter] = _merge_models(values[parameter], model_option)
            return command(**values)

        index = list(parameters).index(parameter) + 1
        ordered = [*list(parameters.values())[:index], added, *list(parameters.values())[index:]]
        wrapper.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in ordered} | {"return": None}
        return wrapper  # type: ignore[return-value]

    return decorate


def _merge_models(argument: Any, option: Any) -> Any:
    """Return the model that is given as an argument or as an option.

    Raises:
        UsageError: If both are given and differ.
    """
    if argument and option and argument != option:
        names = [value if isinstance(value, str) else " ".join(value) for value in (argument, option)]
        raise UsageError(f"{names[0]!r} and --model {names[1]!r} name different models; give one")
    return argument or option


Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Device: cpu, cuda, auto or an onnxruntime provider.",
        rich_help_panel=HARDWARE,
        autocompletion=_completion.choices("cpu", "cuda", "auto"),
    ),
]

# -- arguments and options: conditions and noise -----------------------------------------------------------------------

Label = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Class of the images, by name. For several classes, write 3,4 or 0-9, or repeat the flag.",
        autocompletion=_completion.labels,
    ),
]
Digit = Annotated[
    list[str] | None,
    typer.Option(metavar="DIGIT", help="Same as --label, for models of digits.", autocompletion=_completion.labels),
]
LabelIndex = Annotated[
    list[str] | None,
    typer.Option(metavar="N", help="Class of the images, by index from 0. For several classes, write 0,2 or 0-9."),
]
ConditionValues = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=VALUE",
        help="Value of a condition, such as age=40, smiling=yes or traits=glasses,hat; any for an unknown value. For "
        "several values, write age=20,40, or repeat the flag.",
        autocompletion=_completion.conditions,
    ),
]
Extrapolate = Annotated[
    bool, typer.Option("--extrapolate", help="Accept numbers beyond the range of the training data.")
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the noise. [default: random, and printed]")]

# -- arguments and options: data and output ----------------------------------------------------------------------------

Data = Annotated[str | None, field_flag(DataConfig, "data", "the training data set")]
DataDir = Annotated[str | None, field_flag(DataConfig, "data_dir", "~/.cache/cvae")]
Size = Annotated[str | None, field_flag(DataConfig, "size", "as in training")]
Binarize = Annotated[
    str | None, field_flag(DataConfig, "binarize", "as in training, or none for an exported file without its run")
]
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="train|validation|test",
        help="Split of the data set. [default: test, or validation if there are no test images]",
        rich_help_panel=DATA,
        autocompletion=_completion.choices("train", "validation", "test"),
    ),
]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Image file to write.", rich_help_panel=OUTPUT)]
Scale = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Factor by which the image is enlarged. [default: enlarge small images]",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]

# -- output ------------------------------------------------------------------------------------------------------------


def echo(text: str) -> None:
    """Print a message for the user to standard error."""
    print_message(text)


def report(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Print the result of a command to standard output, as JSON or text.

    Raises:
        CvaeError: If standard output can't be written to, for example because the disk is full.
    """
    try:
        print(json.dumps(result) if as_json else clean_lines(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the buffer is flushed again on exit
        raise CvaeError(f"can't write to standard output: {error.strerror}") from error


def command_line(ctx: typer.Context) -> str:
    """Return the command that is running, for a message that says how to repeat it."""
    return shlex.join(["cvae", *ctx.find_root().obj])


def save_image(result: "Result", out: Path, scale: int | None = None, fps: float = 12.0) -> None:
    """Save the images of a command, and display them if the terminal supports images."""
    image = result.save(out, scale, fps)
    if image is not None and sys.stderr.isatty():  # not standard output, which a script may read
        from cvae.imaging.terminal import inline_escape_sequence

        if sequence := inline_escape_sequence(image):
            print(sequence, file=sys.stderr)  # without cleaning: it is an escape sequence


@contextmanager
def show_progress() -> "Iterator[Callable[[str, int, int], None]]":
    """Yield a function (stage, done, total) that draws a progress bar for each stage, but only on a terminal.

    A bar shows the count, the rate and the time left. The rate does not count items done before the first call.
    """
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    with ExitStack() as open_bars:
        bars: dict[str, Any] = {}
        starts: dict[str, tuple[float, int]] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                open_bars.close()
                starts[stage] = time.monotonic(), done
                bars[stage] = open_bars.enter_context(
                    typer.progressbar(
                        length=total,
                        label=f"{stage:20}",
                        file=sys.stderr,
                        show_eta=False,
                        show_percent=True,
                        show_pos=True,
                        item_show_func=lambda speed: speed,
                    )
                )
            start_time, start = starts[stage]
            bars[stage].current_item = format_speed(done - start, total - done, time.monotonic() - start_time)
            bars[stage].update(done - bars[stage].pos)

        yield update


def format_speed(done: int, left: int, seconds: float) -> str | None:
    """Return the rate of a stage and the time that is left, or None before its first step.

    Args:
        done: number of steps that are done.
        left: number of steps that are left.
        seconds: seconds since the first step.
    """
    if done <= 0 or seconds <= 0:
        return None
    rate = done / seconds
    minutes, rest = divmod(round(left / rate), 60)
    hours, minutes = divmod(minutes, 60)
    time_left = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{rate:,.{0 if rate >= 10 else 1}f}/s  {time_left} left"
