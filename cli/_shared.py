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

# -- arguments and options: the model ----------------------------------------------------------------------------------

MODEL_HELP = (
    "Run folder, exported file, zoo model or hf://owner/name. [default: the newest run, else the zoo's default model]"
)

ModelName = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
Device = Annotated[str, typer.Option(metavar="NAME", help="Device: cpu, cuda, auto or an onnxruntime provider.")]

# -- arguments and options: labels and noise ---------------------------------------------------------------------------

Label = Annotated[str | None, typer.Option(metavar="NAME", help="Class of the images, by name.")]
Digit = Annotated[str | None, typer.Option(metavar="DIGIT", help="Same as --label, for models of digits.")]
LabelIndex = Annotated[int | None, typer.Option(metavar="N", help="Class of the images, by index from 0.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the noise. [default: random, and printed]")]

# -- arguments and options: data and output ----------------------------------------------------------------------------

Data = Annotated[str | None, field_flag(DataConfig, "data", "the training data set")]
DataDir = Annotated[str | None, field_flag(DataConfig, "data_dir", "~/.cache/cvae")]
Size = Annotated[str | None, field_flag(DataConfig, "size", "as in training")]
Binarize = Annotated[
    str | None, field_flag(DataConfig, "binarize", "as in training, or none for an exported file without its run")
]
SplitName = Annotated[str, typer.Option(metavar="train|validation|test", help="Split of the data set.")]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Image file to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

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


# -- models ------------------------------------------------------------------------------------------------------------


def find_model(name: str | None) -> Path:
    """Return the path of a model. Without a name, return the newest run or the zoo's default model, and say which."""
    from cvae.runtime.find import newest

    path, message = newest(name)
    if message:
        echo(message)
    return path


def open_model(name: str | None, device: str) -> "Model":
    """Open the model that `find_model` finds."""
    from cvae.runtime import load

    return load(find_model(name), device=device)


def open_autoencoder(name: str | None, device: str) -> "tuple[Model, Path]":
    """Open a model like `open_model`, check that it has an encoder, and return the model and its folder."""
    from cvae.run import ENCODER, exported_file
    from cvae.runtime import load

    path = find_model(name)
    model = load(path, device=device)
    exported_file(path, ENCODER)  # raises an error if there is no encoder, before any slow work
    return model, path if path.is_dir() else path.parent


def require_torch(feature: str) -> None:
    """Check that the packages for training are installed.

    Raises:
        MissingExtraError: If torch, which `feature` needs, is not installed.
    """
    import importlib.util

    from cvae.errors import MissingExtraError

    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(feature)


# -- labels and noise --------------------------------------------------------------------------------------------------


def choose_class(spec: "Spec", **flags: str | int | None) -> int | None:
    """Return the index of the class that the flags choose by name (str) or index (int), or None without flags.

    Raises:
        UsageError: If the model has no such class, or two flags contradict each other.
    """
    indices: dict[str, int] = {}
    for flag, value in flags.items():
        if value is not None:
            index = spec.check_index(value) if isinstance(value, int) else spec.label_index(value)
            indices[f"--{flag.replace('_', '-')} {value!r}"] = index
    if len(set(indices.values())) > 1:
        raise UsageError(f"{' and '.join(indices)} contradict each other; give one")
    return next(iter(indices.values()), None)


def choose_labels(model: "Model", images: Any, index: int | None, names: list[str]) -> list[int] | None:
    """Return the class index of each image: `index` if it is given, else the class that fits the image best.

    A message names each class that is chosen in this way. Return None for a model without labels.
    """
    if model.spec.classes is None:
        return None
    if index is not None:
        return [index] * len(images)
    labels = [int(i) for i in model.nearest_label(images)]
    for name, index in zip(names, labels, strict=True):
        echo(f"{name}: no label given; {model.spec.classes[index]!r} fits it best")
    return labels


def choose_seed(seed: int | None) -> int:
    """Return `seed`, or a random one if it is None."""
    import secrets

    return secrets.randbelow(2**31) if seed is None else seed


# -- data and images ---------------------------------------------------------------------------------------------------


def override_data(config: DataConfig, **flags: Any) -> DataConfig:
    """Override the data config of a model's training with the flags of the command line."""
    if flags.get("data") not in (None, config.data):
        config = replace(config, without=())  # a different data set has different classes
    return replace(config, **{name: value for name, value in flags.items() if value is not None})


def read_image(path: "str | Path", model: "Model") -> "np.ndarray":
    """Read an image file as (C, H, W) for the model, with a message if it is scaled, cropped or converted to grey."""
    from cvae import imaging

    return imaging.read(path, model.spec.image_shape, note=echo)


def read_images(paths: "list[Path]", model: "Model") -> "np.ndarray":
    """Read image files like `read_image`, as (N, C, H, W), with the same bit depth for all images."""
    from cvae import imaging

    if len(paths) == 1:  # so that a message names the file rather than a count
        return read_image(paths[0], model)[None]
    images, message = imaging.read_set(paths, model.spec.image_shape, note=echo)
    if message:
        echo(message)
    return images
