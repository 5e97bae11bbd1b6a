"""Names -> parts. Listing never loads anything; getting loads one thing.

A part is any callable; its keyword-only parameters with defaults are its options, which a run's config.json
records in full. An option's range stands in its annotation, as in `beta: Annotated[float, Interval(minimum=0)] = 1.0`.
Built-in parts are written here as "module:attribute" and imported when asked for. Other packages add parts by an entry
point in the registry's group:

    [project.entry-points."cvae.architectures"]
    mixer = "my_package:mixer"
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module, metadata
from typing import Any, NamedTuple

from cvae.errors import CvaeError, MissingExtraError, UsageError, near
from cvae.flags import Interval

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list, as [400] is"}
"""What an option's value must be, by the type of its default."""


class Builtin(NamedTuple):
    """A part of cvae's own: where it is (`module:attribute`) and what it is, in a few words."""

    target: str
    summary: str


class Registry:
    """One kind of part, open to other packages through the entry point group `group`."""

    def __init__(self, kind: str, group: str, builtin: Mapping[str, Builtin]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, Callable[..., Any]] = {}

    @cached_property
    def _plugins(self) -> dict[str, metadata.EntryPoint]:
        plugins = {}
        for entry_point in metadata.entry_points(group=self.group):
            if entry_point.name in self._builtin:
                warnings.warn(
                    f"plug-in {entry_point.value!r} is skipped: {entry_point.name!r} is a built-in {self.kind}",
                    stacklevel=2,
                )
            else:
                plugins[entry_point.name] = entry_point
        return plugins

    def __iter__(self) -> Iterator[str]:
        """All names, the built-in ones first; nothing is imported."""
        return iter({**self._builtin, **self._plugins, **self._registered})

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._registered or name in self._plugins

    def summary(self, name: str) -> str:
        """What a part is, in a few words; nothing is imported."""
        if name in self._builtin:
            return self._builtin[name].summary
        if name in self._plugins:
            return f"plug-in {self._plugins[name].value}"
        return "registered by this program"

    def register(self, name: str, part: Callable[..., Any]) -> None:
        """Add a part from the running program (a notebook, a test).

        Raises:
            UsageError: the name is taken.
        """
        if name in self:
            raise UsageError(f"{self.kind} {name!r} exists already; choose another name")
        self._registered[name] = part

    def get(self, name: str) -> Callable[..., Any]:
        """The part called `name`.

        Raises:
            UsageError: no part has this name; the message gives the near ones.
            MissingExtraError: the part needs packages that are not installed.
            CvaeError: a plug-in could not be imported.
        """
        if name in self._builtin:
            module, _, attribute = self._builtin[name].target.partition(":")
            try:
                return getattr(import_module(module), attribute)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("cvae."):
                    raise
                raise MissingExtraError(f"the {self.kind} {name!r}") from error
        if name in self._registered:
            return self._registered[name]
        if name in self._plugins:
            try:
                return self._plugins[name].load()
            except Exception as error:
                value, reason = self._plugins[name].value, " ".join(str(error).split())
                raise CvaeError(
                    f"plug-in {self.kind} {name!r} ({value}) can't be loaded: {type(error).__name__}: {reason}; "
                    "repair or uninstall the package it comes from"
                ) from error
        raise UsageError(f"unknown {self.kind} {name!r}; {near(name, self)}")

    def load_all(self) -> dict[str, Callable[..., Any]]:
        """Every part that can be loaded; a broken plug-in warns and is skipped."""
        parts = {}
        for name in self:
            try:
                parts[name] = self.get(name)
            except MissingExtraError:
                raise
            except CvaeError as error:
                warnings.warn(str(error), stacklevel=2)
        return parts

    def options(self, name: str) -> dict[str, Any]:
        """The options of a part and their defaults: its keyword-only parameters."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}

    def _interval(self, name: str, option: str) -> Interval | None:
        """Return the range in the annotation of an option, if it has one."""
        annotation = inspect.signature(self.get(name)).parameters[option].annotation
        return next((each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Interval)), None)

    def resolve(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a part, the given ones over the defaults.

        Raises:
            UsageError: the part has no such option, or its value is of another type than the default or out of range.
        """
        defaults = self.options(name)
        for option, value in options.items():
            if option not in defaults:
                known = near(option, defaults) if defaults else "it has none"
                raise UsageError(f"{self.kind} {name!r} has no option {option!r}; {known}")
            try:
                defaults[option] = _like(defaults[option], value)
            except TypeError:
                default = defaults[option]
                kind = KINDS.get(type(default), f"of the type of {default!r}")
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is not {kind}") from None
            interval = self._interval(name, option)
            if interval is not None and defaults[option] not in interval:
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is out of range; it must be {interval}")
        return defaults


def _like(default: Any, value: Any) -> Any:
    """`value` in the type of `default`: a list from JSON becomes a tuple, a whole number a float.

    Raises:
        TypeError: it is of another type.
    """
    if default is None or type(value) is type(default) is not tuple:
        return value
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(_like(default[0], entry) for entry in value) if default else tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise TypeError


ARCHITECTURES = Registry(
    "architecture",
    "cvae.architectures",
    {
        "mlp": Builtin("cvae.models.architectures.mlp:mlp", "fully connected, one hidden layer of 400"),
        "mlp-large": Builtin("cvae.models.architectures.mlp:mlp_large", "fully connected, two hidden layers of 512"),
        "conv": Builtin("cvae.models.architectures.conv:conv", "strided convolutions, batch norm, LeakyReLU"),
        "conv-small": Builtin("cvae.models.architectures.conv:conv_small", "conv at half the width"),
        "resnet": Builtin("cvae.models.architectures.resnet:resnet", "residual blocks down, inverse blocks up"),
        "resnet-small": Builtin("cvae.models.architectures.resnet:resnet_small", "resnet at half the width"),
        "resnet-large": Builtin("cvae.models.architectures.resnet:resnet_large", "resnet at twice the width and depth"),
        "ladder": Builtin("cvae.models.architectures.ladder:ladder", "a hierarchy of latents, from coarse to fine"),
    },
)
CONDITIONINGS = Registry(
    "conditioning",
    "cvae.conditionings",
    {
        "film": Builtin("cvae.models.conditioning:FiLM", "the label scales and shifts every block, and joins the code"),
        "concat": Builtin("cvae.models.conditioning:Concat", "the label, one-hot, is joined to features and code"),
    },
)
LIKELIHOODS = Registry(
    "likelihood",
    "cvae.likelihoods",
    {
        "bernoulli": Builtin("cvae.models.likelihoods:Bernoulli", "each pixel black or white; cross-entropy on greys"),
        "gaussian": Builtin("cvae.models.likelihoods:Gaussian", "squared error at a fixed standard deviation"),
        "gaussian-learned": Builtin("cvae.models.likelihoods:LearnedGaussian", "one standard deviation, learned"),
        "gaussian-optimal": Builtin("cvae.models.likelihoods:OptimalGaussian", "one standard deviation, solved for"),
        "logistic-mixture": Builtin("cvae.models.likelihoods:LogisticMixture", "a probability for each of 256 values"),
    },
)
PRIORS = Registry(
    "prior",
    "cvae.priors",
    {
        "normal": Builtin("cvae.models.priors:Normal", "standard normal"),
        "flow": Builtin("cvae.models.priors:Flow", "RealNVP, by label: learned, better samples and likelihood"),
    },
)
OBJECTIVES = Registry(
    "objective",
    "cvae.objectives",
    {
        "elbo": Builtin("cvae.models.objectives:elbo", "negative evidence lower bound, with beta and free bits"),
        "iwae": Builtin("cvae.models.objectives:iwae", "importance-weighted bound of several samples: tighter, slower"),
        "beta-tc": Builtin(
            "cvae.models.objectives:beta_tc", "beta on the total correlation: independent latent dimensions"
        ),
        "info": Builtin("cvae.models.objectives:info", "less of the rate, and a distance of all codes from the prior"),
    },
)
DATASETS = Registry(
    "dataset",
    "cvae.datasets",
    {
        "digits": Builtin("cvae.data.digits:digits", "1,797 handwritten digits, 8x8 grey, bundled: no download"),
        "mnist": Builtin("cvae.data.downloads:mnist", "70,000 handwritten digits, 28x28 grey"),
        "fashion-mnist": Builtin("cvae.data.downloads:fashion_mnist", "70,000 pieces of clothing, 28x28 grey"),
        "kmnist": Builtin("cvae.data.downloads:kmnist", "70,000 cursive Japanese characters, 28x28 grey"),
        "emnist": Builtin("cvae.data.downloads:emnist", "131,600 letters and digits in 47 classes, 28x28 grey"),
        "cifar10": Builtin("cvae.data.downloads:cifar10", "60,000 photographs in 10 classes, 32x32 colour"),
        "svhn": Builtin("cvae.data.downloads:svhn", "99,289 house number digits, 32x32 colour"),
        "folder": Builtin("cvae.data.folder:folder", "your own images: folder:PATH, a sub-folder per class or flat"),
        "folder-classes": Builtin(
            "cvae.data.folder:folder_classes", "your own images, each sub-folder a class: folder-classes:PATH"
        ),
        "npz": Builtin("cvae.data.arrays:npz", "your own arrays: npz:PATH"),
    },
)
EXPORTERS = Registry(
    "exporter",
    "cvae.exporters",
    {
        "onnx": Builtin("cvae.exporters.onnx:export", "decoder.onnx and encoder.onnx, one self-describing file each"),
        "web": Builtin("cvae.exporters.web:export", "a static folder to try an exported model in a browser"),
        "triton": Builtin("cvae.exporters.triton:export", "a model repository for Triton Inference Server"),
    },
)
