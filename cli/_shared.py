"""What several commands share: their common options, and how they choose a model and report what they did."""

import json
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from PIL import Image

    from cvae.config import TrainConfig
    from cvae.runtime import Model
    from cvae.spec import Spec

MODEL = "Run, exported file, zoo name or hf://owner/name. [newest run, else the zoo's]"


def as_size(text: str) -> int | str:
    """The value of --size as a recipe has it: 64, or "48x80"."""
    return int(text) if text.isdecimal() else text


ModelName = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help=MODEL),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help=MODEL),
]
Label = Annotated[str | None, typer.Option(help="Class, by name.")]
Digit = Annotated[str | None, typer.Option(help="The same as --label, for digits.")]
LabelIndex = Annotated[int | None, typer.Option(metavar="N", help="Index of the class, from 0.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeats the same noise. [drawn, and printed]")]
Device = Annotated[str, typer.Option(help="cpu, cuda, auto, or an onnxruntime provider.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Out = Annotated[Path, typer.Option(help="Picture to write.")]
Data = Annotated[str | None, typer.Option(help="Data set, as of cvae train. [what the model was trained on]")]
DataDir = Annotated[str | None, typer.Option(help="Where data sets are. [~/.cache/cvae]")]
Size = Annotated[
    str | None,
    typer.Option(parser=as_size, metavar="SIZE", help="Side in pixels, or HxW, that images are made. [as in training]"),
]
Binarize = Annotated[
    str | None, typer.Option(help="none, dynamic or static. [as in training; of an exported file alone: none]")
]
SplitName = Annotated[str, typer.Option(help="test, validation or train.")]


def say(text: str) -> None:
    """A remark for a person, on standard error."""
    print(text, file=sys.stderr)


def report(as_json: bool, facts: dict[str, Any], text: str) -> None:
    """The result of a command, on standard output."""
    print(json.dumps(facts) if as_json else text)


def save(picture: "Image.Image", out: Path) -> None:
    """A command's picture, in a size to look at; a terminal that can show it does so."""
    from cvae import imaging

    picture = imaging.legible(picture)
    imaging.save(picture, out)
    if sys.stderr.isatty():  # where it goes; what a script reads is left alone
        from cvae.imaging.terminal import inline

        if shown := inline(picture):
            say(shown)


@contextmanager
def progress() -> "Iterator[Callable[[str, int, int], None]]":
    """A bar on standard error for each part of a long command, on a terminal only: called with (part, done, total)."""
    if not sys.stderr.isatty():
        yield lambda part, done, total: None
        return
    with ExitStack() as open_bars:
        bars: dict[str, Any] = {}

        def tell(part: str, done: int, total: int) -> None:
            if part not in bars:
                open_bars.close()
                bars[part] = open_bars.enter_context(
                    typer.progressbar(length=total, label=f"{part:20}", file=sys.stderr)
                )
            bars[part].update(done - bars[part].pos)

        yield tell


def open_model(name: str | None, device: str) -> "Model":
    """The model named, or else the newest run or the zoo's default, saying which."""
    from cvae.runtime import load
    from cvae.runtime.find import newest

    path, remark = newest(name)
    model = load(path, device=device)
    if remark:
        say(remark)
    return model


def open_pair(name: str | None, device: str) -> "tuple[Model, Path]":
    """Like `open_model`, of a model that must have an encoder too; and the folder that its files lie in."""
    from cvae.run import ENCODER, exported_file
    from cvae.runtime.find import newest

    model = open_model(name, device)
    path, _ = newest(name)
    exported_file(path, ENCODER)  # raises, before anything takes time
    return model, path if path.is_dir() else path.parent


def require_torch(what: str) -> None:
    """One line on what is missing, where the training packages are not installed."""
    import importlib.util

    from cvae.errors import MissingExtraError

    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(what)


def given(asked: "TrainConfig", **flags: Any) -> "TrainConfig":
    """What a model was trained on, where the flags of the command line do not say otherwise."""
    if flags.get("data") not in (None, asked.data):
        asked = replace(asked, without=())  # another set has other classes
    return replace(asked, **{name: value for name, value in flags.items() if value is not None})


def choose_class(spec: "Spec", **flags: str | int | None) -> int | None:
    """Return the index of the class that these flags choose, by name (str) or by index (int); None without any.

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
    """The index of each image's class: the one given, else the one that fits it best, saying so.

    None for a model without labels.
    """
    if model.spec.classes is None:
        return None
    if index is not None:
        return [index] * len(images)
    labels = [int(i) for i in model.nearest_label(images)]
    for name, index in zip(names, labels, strict=True):
        say(f"{name}: no label given; {model.spec.classes[index]!r} fits it best")
    return labels


def read_picture(path: "str | Path", model: "Model") -> "np.ndarray":
    """A picture as an image (C, H, W) of the model; one that has to be made to fit is named on standard error."""
    from cvae import imaging

    return imaging.read(path, model.spec.image_shape, remark=say)


def read_pictures(paths: "list[Path]", model: "Model") -> "np.ndarray":
    """Read pictures like `read_picture`, as images (N, C, H, W), with the values of deep ones at one depth."""
    from cvae import imaging

    if len(paths) == 1:  # its name says more than a count
        return read_picture(paths[0], model)[None]
    images, remark = imaging.read_set(paths, model.spec.image_shape, remark=say)
    if remark:
        say(remark)
    return images


def new_seed(seed: int | None) -> int:
    """The seed given, or one drawn."""
    import secrets

    return secrets.randbelow(2**31) if seed is None else seed
