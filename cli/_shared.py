"""Options and helpers that several commands share."""

import json
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli._flags import field_flag
from cvae.config import DataConfig
from cvae.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from PIL import Image

    from cvae.runtime import Model
    from cvae.spec import Spec

MODEL = "Run folder, exported file, zoo model or hf://owner/name. [newest run, else the zoo's default]"


ModelName = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help=MODEL),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help=MODEL),
]
Label = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the class.")]
Digit = Annotated[str | None, typer.Option(metavar="DIGIT", help="Alias of --label for models of digits.")]
LabelIndex = Annotated[int | None, typer.Option(metavar="N", help="Index of the class, from 0.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the noise. [random, and printed]")]
Device = Annotated[str, typer.Option(metavar="NAME", help="Device: cpu, cuda, auto or an onnxruntime provider.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Image file to write.")]
Data = Annotated[str | None, field_flag(DataConfig, "data", "the data of the training")]
DataDir = Annotated[str | None, field_flag(DataConfig, "data_dir", "~/.cache/cvae")]
Size = Annotated[str | None, field_flag(DataConfig, "size", "as in training")]
Binarize = Annotated[str | None, field_flag(DataConfig, "binarize", "as in training; for an exported file alone: none")]
SplitName = Annotated[str, typer.Option(metavar="train|validation|test", help="Split of the data set.")]


def say(text: str) -> None:
    """Print a message for the user to standard error."""
    print(text, file=sys.stderr)


def report(as_json: bool, facts: dict[str, Any], text: str) -> None:
    """Print the result of a command to standard output, as JSON or text."""
    print(json.dumps(facts) if as_json else text)


def save(image: "Image.Image", out: Path) -> None:
    """Save an image, enlarged if it is small, and show it in a terminal that can."""
    from cvae import imaging

    image = imaging.enlarge(image)
    imaging.save(image, out)
    if sys.stderr.isatty():  # not standard output, which a script may read
        from cvae.imaging.terminal import inline_escape_sequence

        if sequence := inline_escape_sequence(image):
            say(sequence)


@contextmanager
def progress() -> "Iterator[Callable[[str, int, int], None]]":
    """Yield a function (part, done, total) that shows a progress bar per part of a command, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda part, done, total: None
        return
    with ExitStack() as open_bars:
        bars: dict[str, Any] = {}

        def update(part: str, done: int, total: int) -> None:
            if part not in bars:
                open_bars.close()
                bars[part] = open_bars.enter_context(
                    typer.progressbar(length=total, label=f"{part:20}", file=sys.stderr)
                )
            bars[part].update(done - bars[part].pos)

        yield update


def open_model(name: str | None, device: str) -> "Model":
    """Open a model by name. Without a name, open the newest run or the zoo's default, and say which."""
    from cvae.runtime import load
    from cvae.runtime.find import newest

    path, remark = newest(name)
    model = load(path, device=device)
    if remark:
        say(remark)
    return model


def open_pair(name: str | None, device: str) -> "tuple[Model, Path]":
    """Open a model like `open_model`, check that it has an encoder, and return it with its folder."""
    from cvae.run import ENCODER, exported_file
    from cvae.runtime.find import newest

    model = open_model(name, device)
    path, _ = newest(name)
    exported_file(path, ENCODER)  # raises an error if there is none, before any slow work
    return model, path if path.is_dir() else path.parent


def require_torch(feature: str) -> None:
    """Check that the packages for training are installed.

    Raises:
        MissingExtraError: they are not, and `feature` needs them.
    """
    import importlib.util

    from cvae.errors import MissingExtraError

    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(feature)


def override_data(config: DataConfig, **flags: Any) -> DataConfig:
    """Override the config of the data that a model was trained on with the flags of the command line."""
    if flags.get("data") not in (None, config.data):
        config = replace(config, without=())  # another set has other classes
    return replace(config, **{name: value for name, value in flags.items() if value is not None})


def choose_class(spec: "Spec", **flags: str | int | None) -> int | None:
    """Return the index of the class that the flags choose by name (str) or index (int), or None without flags.

    Raises:
        UsageError: the model has no such class, or two flags contradict each other.
    """
    indices: dict[str, int] = {}
    for flag, value in flags.items():
        if value is not None:
            index = spec.check_index(value) if isinstance(value, int) else spec.label_index(value)
            indices[f"--{flag.replace('_', '-')} {value!r}"] = index
    if len(set(indices.values())) > 1:
        raise UsageError(f"{' and '.join(indices)} contradict each other; give one")
    return next(iter(indices.values()), None)


def nearest_labels(model: "Model", images: Any, index: int | None, names: list[str]) -> list[int] | None:
    """Return the class index of each image: `index` if there is one, else the class that fits best, with a message.

    Return None for a model without labels.
    """
    if model.spec.classes is None:
        return None
    if index is not None:
        return [index] * len(images)
    labels = [int(i) for i in model.nearest_label(images)]
    for name, index in zip(names, labels, strict=True):
        say(f"{name}: no label given; {model.spec.classes[index]!r} fits it best")
    return labels


def read_image(path: "str | Path", model: "Model") -> "np.ndarray":
    """Read an image file as (C, H, W) for the model, with a message if it has to be scaled, cropped or made grey."""
    from cvae import imaging

    return imaging.read(path, model.spec.image_shape, remark=say)


def read_images(paths: "list[Path]", model: "Model") -> "np.ndarray":
    """Read image files like `read_image`, as (N, C, H, W), with values of more than 8 bits at one depth."""
    from cvae import imaging

    if len(paths) == 1:  # the message names the file rather than a count
        return read_image(paths[0], model)[None]
    images, remark = imaging.read_set(paths, model.spec.image_shape, remark=say)
    if remark:
        say(remark)
    return images


def new_seed(seed: int | None) -> int:
    """Return `seed`, or a random one if it is None."""
    import secrets

    return secrets.randbelow(2**31) if seed is None else seed
