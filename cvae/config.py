"""What a run is: frozen dataclasses, to and from JSON and TOML. Unknown keys and wrong types are errors."""

import dataclasses
import json
import math
import tomllib
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cvae.errors import CvaeError, UsageError, near, one_line
from cvae.files import read_at_most

FORMAT = 1
"""The version of config.json's layout. A reader refuses another one."""

MIN_SIDE, MAX_SIDE = 4, 4096
"""Pixels of an image's side, at least and at most."""


MAX_TEXT, MAX_DEPTH, MAX_NAME = 2**21, 16, 1024
"""Bytes of a JSON file, how deep it may be nested, and characters of a name."""


UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of controls, formats (as of the order of writing), surrogates, line and paragraph separators."""


def parse_json(text: str | bytes) -> Any:
    """JSON as this package writes it, of a file that may be anyone's.

    Raises:
        ValueError: it is longer than `MAX_TEXT`, nested deeper than `MAX_DEPTH`, has a key twice (readers would differ
            in which they take), or a number that is not finite.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text)} bytes, more than {MAX_TEXT}")
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_number, parse_float=_number)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    _check_depth(data)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in found if keys.count(key) > 1)[:80]!r} is there twice")
    return found


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:80]} is not finite")
    return number


def _check_depth(data: Any) -> None:
    """
    Raises:
        ValueError: it is nested too deep.
    """
    layer = [data]
    for _ in range(MAX_DEPTH):
        layer = [
            item
            for parent in layer
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not layer:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def check_text(text: str) -> None:
    """
    Raises:
        UsageError: it is longer than a name or a remark, or has characters that control the terminal of whoever lists
            it, reorder or break its lines, or are halves of one.
    """
    if len(text) > MAX_NAME or any(unicodedata.category(character) in UNSEEN for character in text):
        raise UsageError(f"the text {_quoted(text)} has characters that control or hide others, or over {MAX_NAME}")


def _quoted(value: Any) -> str:
    """A value for an error line, which may be of any length."""
    return one_line(repr(value), 80)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as JSON or TOML gives it -> what the type hint says, or an error that quotes it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [arg for arg in args if arg is not type(None)]
        return _convert(value, next((arg for arg in choices if type(value) is arg), choices[0]), where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_dict(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not ... and len(value) != len(args):
            raise UsageError(f"{where}: {_quoted(value)} should have {len(args)} entries")
        item_hints = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(_convert(v, h, where) for v, h in zip(value, item_hints, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UsageError(f"{where}: {_quoted(value)} should be {getattr(hint, '__name__', hint)}")


def from_dict(cls: type[Any], data: Mapping[str, Any], where: str = "") -> Any:
    """Make the dataclass `cls` from `data`.

    Raises:
        UsageError: a key is unknown or missing, or a value is of another type; the message says where.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise UsageError(f"{where or cls.__name__}: unknown key {_quoted(key)}; {near(key[:80], fields)}")
        values[key] = _convert(value, hints[key], f"{where}.{key}".lstrip("."))
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where or cls.__name__}: the key {name!r} is missing")
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A registered part by its name, with all its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to rebuild a network.

    `image_shape` is (C, H, W). `classes` names the labels 0 ... K-1 of a conditional model; None: no labels.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    classes: tuple[str, ...] | None
    architecture: Part
    conditioning: Part | None
    likelihood: Part
    prior: Part

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if not (1 <= channels <= 16 and 4 <= height <= MAX_SIDE and 4 <= width <= MAX_SIDE):
            raise UsageError(
                f"image shape {self.image_shape} is not (C, H, W) with C in 1..16, H and W in 4..{MAX_SIDE}"
            )
        if not 1 <= self.latent_dim <= 65536:
            raise UsageError(f"latent dimension {self.latent_dim} is not in 1..65536")
        if (self.classes is None) != (self.conditioning is None):
            raise UsageError("a model has both classes and conditioning, or neither")
        if self.classes is not None and not 1 <= len(self.classes) <= 65536:
            raise UsageError(f"{len(self.classes)} classes; a conditional model has 1..65536")
        for name in self.classes or ():
            check_text(name)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that can be asked of a training run: the flags of `cvae train` and the keys of a recipe.

    `None` means: choose by the data. Part options, such as {"arch": {"width": 32}}, go into `options`.
    """

    # model
    arch: str = "resnet"
    conditional: bool = False
    conditioning: str = "film"
    likelihood: str | None = None
    prior: str = "flow"
    latent_dim: int = 32
    # data
    data: str = "digits"
    data_dir: str | None = None
    size: int | str | None = None
    binarize: str = "none"
    validation: float = 0.1
    without: tuple[str, ...] = ()
    limit: int | None = None
    flip: bool = False
    shift: int = 0
    crop: float = 1.0
    # objective
    objective: str = "elbo"
    beta: float | None = None
    free_bits: float | None = None
    kl_warmup: float = 0.0
    # optimization
    init: str | None = None
    epochs: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[int, ...] | None = None
    warmup: int = 0
    clip: float = 100.0
    ema: float = 0.0
    on_nan: str = "stop"
    # machine
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    trackers: tuple[str, ...] | None = None
    # options of the parts above, by flag name
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {
            "latent_dim": 1,
            "limit": 1,
            "shift": 0,
            "epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{flag(name)} {value} is too small: at least {least}")
        for side in self.sides or ():
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise UsageError(f"--size {self.size}: a side has {MIN_SIDE} to {MAX_SIDE} pixels")
        for name in ("beta", "free_bits", "kl_warmup", "weight_decay", "warmup", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**63:
                raise UsageError(f"{flag(name)} {value} must be a number that is not negative")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed} must be in 0..{2**32 - 1}")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"--lr {self.lr} must be positive")
        for name in ("validation", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} {getattr(self, name)} must be at least 0 and less than 1")
        if not 0 < self.crop <= 1:
            raise UsageError(f"--crop {self.crop} must be more than 0 and at most 1, the whole image")
        if self.milestones is not None and (self.schedule != "step" or min(self.milestones, default=0) < 1):
            raise UsageError(f"--milestone {self.milestones}: epochs from 1 on, for --schedule step")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{flag(name)} {getattr(self, name)!r} is unknown; {near(getattr(self, name), choices)}"
                )

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width in pixels that images are made: `size` is the side of a square, or such as "48x80".

        Raises:
            UsageError: it is neither.
        """
        if self.size is None or isinstance(self.size, int):
            return None if self.size is None else (self.size, self.size)
        height, cross, width = self.size.partition("x")
        if not (cross and height.isdecimal() and width.isdecimal() and len(self.size) < 12):
            raise UsageError(f"--size {self.size!r} is neither a side, such as 64, nor HEIGHTxWIDTH, such as 48x80")
        return int(height), int(width)


CHOICES = {
    "binarize": ("none", "dynamic", "static"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "step"),
    "on_nan": ("stop", "skip"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}


def flag(name: str) -> str:
    """A key's name on the command line: kl_warmup -> --kl-warmup."""
    return "--" + {"trackers": "tracker", "milestones": "milestone"}.get(name, name).replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json of a run: the network, the training that repeats it, and the terms of the data it saw."""

    format: int = FORMAT
    cvae_version: str
    data_terms: str
    model: ModelConfig
    training: TrainConfig

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a run's config.json.

        Raises:
            CvaeError: it can't be read, is no valid config, or comes from a newer cvae.
        """
        try:
            data = parse_json(read_at_most(path, MAX_TEXT))
        except ValueError as error:
            raise CvaeError(f"{str(path)!r} is not JSON: {one_line(error)}") from error
        if not isinstance(data, dict):
            raise CvaeError(f"{str(path)!r} is no config of a run")
        if data.get("format") != FORMAT:
            raise CvaeError(
                f"{str(path)!r} has format {_quoted(data.get('format'))}, this cvae reads {FORMAT}: "
                "it is no run of cvae, or of a newer one (upgrade cvae-onnx)"
            )
        try:
            return from_dict(cls, data)
        except UsageError as error:
            raise CvaeError(f"{str(path)!r} is not a valid config: {one_line(error)}") from error


MAX_RECIPE = 2**13
"""Bytes of a recipe: tomllib takes memory and time by the square of a key's length."""


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The flags that a recipe sets: a TOML file, or a run's config.json, whose training it repeats.

    Keys are those of `TrainConfig`; a dash may stand for an underscore.

    Raises:
        UsageError: the file can't be read, is not TOML, or has a key that is no flag.
    """
    path = Path(path)
    if path.suffix == ".json":
        return to_dict(Config.read(path).training)
    try:
        data = tomllib.loads(read_at_most(path, MAX_RECIPE).decode())
        _check_depth(data)
    except CvaeError as error:
        raise UsageError(f"the recipe can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {str(path)!r} is not TOML: {one_line(error)}") from error
    recipe = {key.replace("-", "_"): value for key, value in data.items() if key != "search"}  # that is for cvae tune
    from_dict(TrainConfig, recipe, f"recipe {path.name}")
    return recipe


def parse_options(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """["arch.width=32"] -> {"arch": {"width": 32}}; values are JSON, or else text.

    Raises:
        UsageError: an assignment is not of this form.
    """
    options: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        part, dot, option = name.partition(".")
        if not (equals and dot and part in PARTS and option):
            raise UsageError(f"--set {assignment!r} is not PART.OPTION=VALUE with PART one of {', '.join(PARTS)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(part, {})[option] = value
    return options


PARTS = ("arch", "conditioning", "likelihood", "prior", "objective")
"""The parts of a run that take options, by flag name."""
