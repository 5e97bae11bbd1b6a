"""Registries of parts by name: architectures, likelihoods, data sets and so on.

A part is any callable. Its keyword-only parameters with defaults are its options, and the config.json of a run records
all of them. The range of an option is in its annotation: `beta: Annotated[float, Interval(minimum=0)] = 1.0`.
Built-in parts are listed here as "module:attribute". Listing them imports nothing, and `Registry.get` imports only the
part that it returns. Other packages add parts through an entry point in the group of the registry:

    [project.entry-points."cvae.architectures"]
    mixer = "my_package:mixer"
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from cvae.errors import CvaeError, MissingExtraError, UsageError, suggest
from cvae.flags import Interval

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

EXPECTED_VALUES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list like [400]",
}
"""Description of the values that an option accepts, by the type of its default."""


class Builtin(NamedTuple):
    """Built-in part: its import path (`module:attribute`) and a summary of a few words."""

    target: str
    summary: str


class Registry:
    """Registry of the parts of one kind: built-in parts, plug-ins, and parts that the running program registers.

    Args:
        kind: kind of part, for error messages.
        group: entry point group of plug-ins.
        builtin: built-in parts by name.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, Builtin]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, Callable[..., Any]] = {}

    @cached_property
    def _plugins(self) -> "dict[str, EntryPoint]":
        from importlib import metadata  # here, because the help does not need it and it is slow to import

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
        """Iterate over all names, first the built-in parts, without importing any part."""
        return iter({**self._builtin, **self._plugins, **self._registered})

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._registered or name in self._plugins

    def is_builtin(self, name: str) -> bool:
        """Return whether a part is built in."""
        return name in self._builtin

    def summary(self, name: str) -> str:
        """Return a description of a part in a few words, without importing it."""
        if name in self._builtin:
            return self._builtin[name].summary
        if name in self._plugins:
            return f"plug-in {self._plugins[name].value}"
        return "registered by this program"

    def register(self, name: str, part: Callable[..., Any]) -> None:
        """Add a part that the running program defines, for example in a notebook or a test.

        Raises:
            UsageError: If the name is taken.
        """
        if name in self:
            raise UsageError(f"{self.kind} {name!r} already exists; choose another name")
        self._registered[name] = part

    def get(self, name: str) -> Callable[..., Any]:
        """Import the part called `name`.

        Raises:
            UsageError: If no part has this name; the message suggests similar ones.
            MissingExtraError: If the part needs packages that are not installed.
            CvaeError: If a plug-in can't be imported.
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
                    "fix or uninstall the package that provides it"
                ) from error
        raise UsageError(f"unknown {self.kind} {name!r}; {suggest(name, self)}")

    def load_all(self) -> dict[str, Callable[..., Any]]:
        """Import all parts, skipping broken plug-ins with a warning."""
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
        """Return the options of a part with their defaults."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}

    def describe_options(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the type, default, range and description of each option of a part, if they are known."""
        part = self.get(name)
        return {
            option: {
                "type": "str" if default is None else type(default).__name__,
                "default": default,
                "range": None if (interval := self._interval(name, option)) is None else str(interval),
                "help": describe_argument(part, option),
            }
            for option, default in self.options(name).items()
        }

    def _interval(self, name: str, option: str) -> Interval | None:
        """Return the range in the annotation of an option, if it has one."""
        annotation = inspect.signature(self.get(name)).parameters[option].annotation
        return next((item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Interval)), None)

    def resolve(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options of a part, with the values in `options` or the defaults.

        Raises:
            UsageError: If the part has no such option, or a value is out of range or of a different type than the
                default.
        """
        defaults = self.options(name)
        for option, value in options.items():
            if option not in defaults:
                hint = suggest(option, defaults) if defaults else "it has none"
                raise UsageError(f"{self.kind} {name!r} has no option {option!r}; {hint}")
            try:
                defaults[option] = _cast_like(defaults[option], value)
            except TypeError:
                default = defaults[option]
                expected = EXPECTED_VALUES.get(type(default), f"of the type of {default!r}")
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is not {expected}") from None
            interval = self._interval(name, option)
            if interval is not None and defaults[option] not in interval:
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is out of range; it must be {interval}")
        return defaults


def describe_argument(part: Callable[..., Any], name: str) -> str:
    """Return the description of an argument as a sentence, from the section "Args:" of the docstring, or "".

    An argument that a class does not describe may be described by its base class.
    """
    while isinstance(part, partial):
        part = part.func
    for documented in inspect.getmro(part) if isinstance(part, type) else (part,):
        match = re.search(rf"^( +){name}: (.+(?:\n\1 +.+)*)", inspect.getdoc(documented) or "", re.MULTILINE)
        if match:
            text = " ".join(match[2].split())
            return text[0].upper() + text[1:]
    return ""


def _cast_like(default: Any, value: Any) -> Any:
    """Cast `value` to the type of `default`: a list from JSON to a tuple, an integer to a float.

    Raises:
        TypeError: If `value` has a different type.
    """
    if default is None or type(value) is type(default) is not tuple:
        return value
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(_cast_like(default[0], entry) for entry in value) if default else tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise TypeError


ARCHITECTURES = Registry(
    "architecture",
    "cvae.architectures",
    {
        "mlp": Builtin("cvae.models.architectures.mlp:mlp", "fully connected, one hidden layer of width 400"),
        "mlp-large": Builtin(
            "cvae.models.architectures.mlp:mlp_large", "fully connected, two hidden layers of width 512"
        ),
        "conv": Builtin("cvae.models.architectures.conv:conv", "strided convolutions, batch norm, LeakyReLU"),
        "conv-small": Builtin("cvae.models.architectures.conv:conv_small", "conv at half the width"),
        "resnet": Builtin("cvae.models.architectures.resnet:resnet", "residual blocks with down- and upsampling"),
        "resnet-small": Builtin("cvae.models.architectures.resnet:resnet_small", "resnet at half the width"),
        "resnet-large": Builtin("cvae.models.architectures.resnet:resnet_large", "resnet at twice the width and depth"),
        "ladder": Builtin("cvae.models.architectures.ladder:ladder", "a hierarchy of latents, from coarse to fine"),
    },
)
CONDITIONINGS = Registry(
    "conditioning",
    "cvae.conditionings",
    {
        "film": Builtin(
            "cvae.models.conditioning:FiLM", "scale and shift of every block by label, and concat in linear layers"
        ),
        "concat": Builtin("cvae.models.conditioning:Concat", "one-hot label concatenated with features and latent"),
    },
)
LIKELIHOODS = Registry(
    "likelihood",
    "cvae.likelihoods",
    {
        "bernoulli": Builtin("cvae.models.likelihoods:Bernoulli", "black or white pixels; cross-entropy for greys"),
        "gaussian": Builtin("cvae.models.likelihoods:Gaussian", "squared error, fixed standard deviation"),
        "gaussian-learned": Builtin("cvae.models.likelihoods:LearnedGaussian", "learned standard deviation"),
        "gaussian-optimal": Builtin("cvae.models.likelihoods:OptimalGaussian", "maximum-likelihood standard deviation"),
        "logistic-mixture": Builtin("cvae.models.likelihoods:LogisticMixture", "distribution over 256 pixel values"),
    },
)
PRIORS = Registry(
    "prior",
    "cvae.priors",
    {
        "normal": Builtin("cvae.models.priors:Normal", "standard normal"),
        "flow": Builtin(
            "cvae.models.priors.flow:Flow", "learned RealNVP, conditioned on the label: better samples and likelihood"
        ),
        "flow-grid": Builtin(
            "cvae.models.priors.flow:GridFlow", "convolutional flow for grids of latents (arch.latent_channels)"
        ),
        "flow-matching": Builtin(
            "cvae.models.priors.flow_matching:FlowMatching", "learned velocity field, with guidance by the label"
        ),
    },
)
OBJECTIVES = Registry(
    "objective",
    "cvae.objectives",
    {
        "elbo": Builtin("cvae.models.objectives:elbo", "negative evidence lower bound, with beta and free bits"),
        "iwae": Builtin("cvae.models.objectives:iwae", "importance-weighted bound of several samples: tighter, slower"),
        "beta-tc": Builtin(
            "cvae.models.objectives:beta_tc", "ELBO with beta on the total correlation, for independent latents"
        ),
        "info": Builtin(
            "cvae.models.objectives:info", "InfoVAE: less weight on the rate, plus the MMD between codes and prior"
        ),
    },
)
LOSSES = Registry(
    "loss",
    "cvae.losses",
    {
        "perceptual": Builtin(
            "cvae.models.perceptual:Perceptual", "distance in the features of a classifier or of VGG16, such as LPIPS"
        ),
        "adversarial": Builtin(
            "cvae.models.adversarial:Adversarial", "hinge loss of a patch discriminator that is trained with the model"
        ),
        "label": Builtin(
            "cvae.models.label_loss:LabelLoss", "cross-entropy of a classifier, so that random images obey their labels"
        ),
    },
)
OPTIMIZERS = Registry(
    "optimizer",
    "cvae.optimizers",
    {
        "adam": Builtin("cvae.engine.optimizers:adam", "Adam"),
        "adamw": Builtin("cvae.engine.optimizers:adamw", "Adam with decoupled weight decay"),
        "muon": Builtin("cvae.engine.optimizers:Muon", "orthogonal updates of small matrices, AdamW for the rest"),
    },
)
DATASETS = Registry(
    "dataset",
    "cvae.datasets",
    {
        "digits": Builtin("cvae.data.digits:digits", "1,797 handwritten digits, 8x8 grey, bundled: no download"),
        "mnist-small": Builtin(
            "cvae.data.mnist_small:mnist_small", "12,000 handwritten digits of MNIST, 28x28 grey, bundled: no download"
        ),
        "mnist": Builtin("cvae.data.downloads:mnist", "70,000 handwritten digits, 28x28 grey"),
        "fashion-mnist": Builtin("cvae.data.downloads:fashion_mnist", "70,000 pieces of clothing, 28x28 grey"),
        "kmnist": Builtin("cvae.data.downloads:kmnist", "70,000 cursive Japanese characters, 28x28 grey"),
        "emnist": Builtin("cvae.data.downloads:emnist", "131,600 letters and digits in 47 classes, 28x28 grey"),
        "cifar10": Builtin("cvae.data.downloads:cifar10", "60,000 photographs in 10 classes, 32x32 colour"),
        "svhn": Builtin("cvae.data.downloads:svhn", "99,289 house number digits, 32x32 colour"),
        "folder": Builtin(
            "cvae.data.folder:folder", "your own images: folder:PATH, with or without a subfolder per class"
        ),
        "folder-classes": Builtin(
            "cvae.data.folder:folder_classes", "your own images, a subfolder per class: folder-classes:PATH"
        ),
        "table": Builtin(
            "cvae.data.table:table", "your own images, with conditions in the columns of a CSV file: table:PATH"
        ),
        "npz": Builtin("cvae.data.arrays:npz", "your own arrays: npz:PATH"),
        "arrays": Builtin(
            "cvae.data.array_store:arrays", "images that a program has passed to cvae.train: arrays:HASH"
        ),
    },
)
ARGUMENT_DATASETS = ("folder", "folder-classes", "table", "npz", "arrays")
"""Built-in data sets that need an argument, as in `--data folder:PATH`."""

EXPORTERS = Registry(
    "exporter",
    "cvae.exporters",
    {
        "onnx": Builtin("cvae.exporters.onnx:export", "decoder.onnx and encoder.onnx, one self-describing file each"),
        "web": Builtin("cvae.exporters.web:export", "static web page that runs an exported model in the browser"),
        "triton": Builtin("cvae.exporters.triton:export", "model repository for Triton Inference Server"),
    },
)

REGISTRIES = {
    "arch": ARCHITECTURES,
    "conditioning": CONDITIONINGS,
    "likelihood": LIKELIHOODS,
    "prior": PRIORS,
    "objective": OBJECTIVES,
    "losses": LOSSES,
    "optimizer": OPTIMIZERS,
    "data": DATASETS,
    "export": EXPORTERS,
}
"""Registries by the field of `TrainConfig` that names a part; "export" is the command that names an exporter."""
