"""Configuration of a run, as frozen dataclasses whose fields are command-line flags. Does not import torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from cvae.atomic import read_at_most
from cvae.data_config import DATA, HARDWARE, MODEL, OBJECTIVE, OPTIMIZATION, OUTPUT, DataConfig
from cvae.errors import CvaeError, UsageError, one_line
from cvae.fingerprint import Fingerprint
from cvae.flags import (
    Interval,
    ShortFlag,
    canonical_path,
    flag_field,
    flags_of,
)
from cvae.formats import FORMAT, upgrade_config
from cvae.model_config import ModelConfig
from cvae.serialization import MAX_TEXT, from_dict, parse_json, quote, to_dict

SHORT_FLAGS = {
    "beta": ShortFlag(
        part="objective", type=float, group=OBJECTIVE, help="Weight of the KL term.", automatic="1; beta-tc: 4"
    ),
    "free_bits": ShortFlag(
        part="objective",
        type=float,
        group=OBJECTIVE,
        help="Nats of the KL term that cost nothing: per latent dimension, but in total for those of a flow prior.",
        automatic="0",
    ),
}
"""Flags for part options, by option name: `--beta 4` is short for `--set objective.beta=4`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """Configuration of a training run: the flags of `cvae train` and the keys of a recipe.

    `options` holds the options of the parts, such as {"arch": {"width": 32}}.
    """

    arch: str = flag_field("resnet", MODEL, "Architecture of the networks; see `cvae parts`.", takes_options=True)
    conditioning: str = flag_field(
        "film", MODEL, "How conditions enter the networks: film or concat.", takes_options=True
    )
    likelihood: str | None = flag_field(
        None,
        MODEL,
        "Likelihood of an image given its latent code, p(x|z).",
        automatic="bernoulli for mostly black-and-white images, else gaussian-optimal",
        takes_options=True,
        resolved=True,
        searchable=False,
    )
    prior: str = flag_field("flow", MODEL, "Prior of the latent code, p(z); see `cvae parts`.", takes_options=True)
    latent_dim: int = flag_field(32, MODEL, "Number of latent dimensions.", interval=Interval(minimum=1))
    drop_conditions: float | None = flag_field(
        None,
        MODEL,
        "Probability with which each condition of an image is unknown in training, so that it can be left out later.",
        automatic="0.1; a single label: 0, unless labels are imputed",
        interval=Interval(minimum=0, maximum=1),
        resolved=True,
    )
    impute: bool = flag_field(
        False,
        OBJECTIVE,
        "Train images without a label under labels drawn from a classifier, which learns from the known labels.",
    )
    balance: bool = flag_field(False, DATA, "Draw equally many training images of each class, by repeating rare ones.")
    flip: bool = flag_field(False, DATA, "Flip each training image horizontally with probability 1/2.")
    shift: int = flag_field(0, DATA, "Maximum shift of training images, in pixels.", interval=Interval(minimum=0))
    crop: float = flag_field(
        1.0,
        DATA,
        "Minimum side of random crops, as a fraction of the image's side.",
        interval=Interval(above=0, maximum=1),
    )
    rotate: float = flag_field(
        0.0, DATA, "Maximum random rotation of training images, in degrees.", interval=Interval(minimum=0, maximum=180)
    )
    zoom: float = flag_field(
        0.0, DATA, "Maximum random scaling of training images, as a fraction.", interval=Interval(minimum=0, below=1)
    )
    jitter: float = flag_field(
        0.0,
        DATA,
        "Maximum random change of the brightness, tint, contrast and saturation of training images, as a fraction.",
        interval=Interval(minimum=0, maximum=1),
    )
    objective: str = flag_field("elbo", OBJECTIVE, "Training objective; see `cvae parts`.", takes_options=True)
    losses: tuple[str, ...] = flag_field(
        (),
        OBJECTIVE,
        "Loss on the decoder's images to add to the objective, for sharper images or clearer labels and a worse bound; "
        "see `cvae parts`.",
        name="loss",
        canonical=frozenset,
        searchable=False,
    )
    kl_warmup: float = flag_field(
        0.0,
        OBJECTIVE,
        "Number of epochs over which the weight of the KL term grows to its full value.",
        interval=Interval(minimum=0),
    )
    consistency: float | None = flag_field(
        None,
        OBJECTIVE,
        "Train on pairs of an image and its augmented copy, with this weight on the KL divergence between their "
        "posteriors.",
        automatic="train on augmented images only",
        interval=Interval(minimum=0),
    )
    init: str | None = flag_field(
        None,
        OPTIMIZATION,
        "Run or zoo model whose weights initialize the networks.",
        automatic="random weights",
        canonical=canonical_path,
    )
    epochs: int | None = flag_field(
        None,
        OPTIMIZATION,
        "Number of passes over the training images.",
        automatic="2; small data sets: enough for 1,000 steps",
        interval=Interval(minimum=1),
        resolved=True,
        resumable=True,
    )
    minutes: float | None = flag_field(
        None,
        OPTIMIZATION,
        "Time budget of the training in minutes, in place of --epochs. The schedules adapt to the measured speed.",
        automatic="no limit",
        interval=Interval(above=0),
        resumable=True,
        searchable=False,
    )
    batch_size: int | None = flag_field(
        None,
        OPTIMIZATION,
        "Number of images per step.",
        automatic="64; small data sets: about a tenth of the images",
        interval=Interval(minimum=1),
        resolved=True,
    )
    patience: int = flag_field(
        0,
        OPTIMIZATION,
        "Stop after N epochs without a better validation bound; 0 never stops early.",
        interval=Interval(minimum=0),
        resumable=True,
        searchable=False,
    )
    accumulate: int = flag_field(
        1, OPTIMIZATION, "Number of parts to split each batch into, to save memory.", interval=Interval(minimum=1)
    )
    optimizer: str = flag_field("muon", OPTIMIZATION, "Optimizer; see `cvae parts`.", takes_options=True)
    lr: float = flag_field(5e-3, OPTIMIZATION, "Learning rate.", interval=Interval(above=0))
    lr_scales: tuple[str, ...] = flag_field(
        (),
        OPTIMIZATION,
        "Factor of the learning rate for the parameters whose names match a pattern, such as 'decoder.head.*=2'.",
        name="lr-scale",
        metavar="PATTERN=X",
    )
    freeze: tuple[str, ...] = flag_field(
        (),
        OPTIMIZATION,
        "Parameters that keep their initial values: a module such as encoder, or a pattern of names.",
        metavar="PATTERN",
        canonical=frozenset,
    )
    center: bool = flag_field(
        False, OPTIMIZATION, "Train each layer as a function of its input minus the mean input, which converges faster."
    )
    mean_init: bool = flag_field(
        False, OPTIMIZATION, "Initialize the output of the decoder with the mean of the training images."
    )
    weight_decay: float = flag_field(0.0, OPTIMIZATION, "Weight decay of the optimizer.", interval=Interval(minimum=0))
    schedule: str = flag_field(
        "cosine", OPTIMIZATION, "Learning rate schedule.", choices=("constant", "cosine", "linear", "step")
    )
    milestones: tuple[int, ...] | None = flag_field(
        None,
        OPTIMIZATION,
        "Epochs after which the step schedule divides the learning rate by ten.",
        name="milestone",
        automatic="half and three quarters of the epochs",
        interval=Interval(minimum=1),
    )
    warmup: int | None = flag_field(
        None,
        OPTIMIZATION,
        "Number of steps over which the learning rate grows.",
        automatic="100; short runs: a twentieth of the steps",
        interval=Interval(minimum=0),
        resolved=True,
    )
    clip: float = flag_field(
        100.0, OPTIMIZATION, "Maximum norm of the gradient; 0 disables clipping.", interval=Interval(minimum=0)
    )
    ema: float = flag_field(
        0.0,
        OPTIMIZATION,
        "Decay of the moving average of the weights, such as 0.999; 0 disables averaging.",
        interval=Interval(minimum=0, below=1),
    )
    on_nan: str = flag_field(
        "stop",
        OPTIMIZATION,
        "What to do if the loss is not finite: stop training, or skip the batch.",
        choices=("stop", "skip"),
        resumable=True,
    )
    device: str = flag_field(
        "auto",
        HARDWARE,
        "Device to train on.",
        choices=("auto", "cpu", "cuda", "mps"),
        synonyms={"gpu": "cuda", "nvidia": "cuda"},
        resumable=True,
        machine=True,
    )
    precision: str = flag_field(
        "auto", HARDWARE, "Floating-point precision.", choices=("auto", "fp32", "bf16", "fp16"), resolved=True
    )
    compile: bool | None = flag_field(
        None,
        HARDWARE,
        "Compile the networks before training.",
        automatic="for long runs",
        resolved=True,
        resumable=True,
        machine=True,
    )
    trackers: tuple[str, ...] | None = flag_field(
        None,
        OUTPUT,
        "Trackers to log to: tensorboard, wandb, mlflow or none.",
        name="tracker",
        automatic="tensorboard, if installed",
        resumable=True,
        machine=True,
    )
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __new__(cls, **values: Any) -> Self:
        for name in SHORT_FLAGS.keys() & values:
            part, value = SHORT_FLAGS[name].part, values[name]
            raise UsageError(
                f"TrainConfig({name}={value!r}): {name} is an option of the {part}; "
                f"pass options={ {part: {name: value}} }"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.minutes is not None:
            raise UsageError(
                f"epochs {self.epochs} and minutes {self.minutes:g} both set the length of the run; remove one of them"
            )
        if self.milestones is not None and self.schedule != "step":
            raise UsageError(f"milestones require schedule 'step', not {self.schedule!r}")
        if self.milestones == ():
            raise UsageError("milestones is an empty list; list at least one epoch, or remove it")
        if len(set(self.losses)) < len(self.losses):
            raise UsageError(f"losses {list(self.losses)} lists a loss twice; list each once, and set its weight")

    @property
    def training_parts(self) -> dict[str, str]:
        """Parts that belong to the training and not to the model, by the key of their options."""
        return {"objective": self.objective, "optimizer": self.optimizer, **{name: name for name in self.losses}}

    @property
    def data_config(self) -> DataConfig:
        """The fields that are shared with `DataConfig`."""
        return DataConfig(**{data_field.name: getattr(self, data_field.name) for data_field in fields(DataConfig)})


def flag(name: str) -> str:
    """Return the flag of a field: kl_warmup -> --kl-warmup."""
    flags = {**flags_of(TrainConfig), **SHORT_FLAGS}
    return flags[name].spelling(name) if name in flags else "--" + name.replace("_", "-")


def expand_short_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Move the keys of short flags to the part options that they stand for.

    Recipes and the config.json of older runs have `beta` and `free_bits` as top-level keys, with null for the default.
    """
    expanded = {key: value for key, value in values.items() if key not in SHORT_FLAGS}
    for name in SHORT_FLAGS.keys() & values:
        options = expanded.get("options", {})
        part_options = options.get(SHORT_FLAGS[name].part, {}) if isinstance(options, Mapping) else None
        if values[name] is not None and isinstance(part_options, Mapping):  # otherwise from_dict rejects the options
            expanded["options"] = {**options, SHORT_FLAGS[name].part: {**part_options, name: values[name]}}
    return expanded


@dataclass(frozen=True, kw_only=True)
class Config:
    """Content of config.json: the network, the training config, and the license and the fingerprint of the data."""

    format: int = FORMAT
    cvae_version: str
    data_license: str
    model: ModelConfig
    training: TrainConfig
    fingerprint: Fingerprint | None = None

    def to_json(self) -> str:
        """Return the config as the text of config.json."""
        data = to_dict(self)
        data["model"]["conditions"] = [condition.to_json() for condition in self.model.conditions]
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the config.json of a run.

        Raises:
            CvaeError: If the file can't be read, is not a valid config, or was written by a newer version of cvae.
        """
        try:
            data = parse_json(read_at_most(path, MAX_TEXT))
        except ValueError as error:
            raise CvaeError(f"{str(path)!r} is not JSON: {one_line(error)}") from error
        if not isinstance(data, dict):
            raise CvaeError(f"{str(path)!r} is not the config of a run")
        try:
            data = upgrade_config(data) if data.get("format") == 1 else data
        except UsageError as error:
            raise CvaeError(f"{str(path)!r} is not a valid config: {one_line(error)}") from error
        if data.get("format") != FORMAT:
            raise CvaeError(
                f"{str(path)!r} has format {quote(data.get('format'))}, but this version of cvae reads 1 to {FORMAT}; "
                "upgrade cvae-onnx if a newer version wrote it"
            )
        if isinstance(training := data.get("training"), dict):
            data["training"] = expand_short_flags(training)
        try:
            return from_dict(cls, data)
        except UsageError as error:
            raise CvaeError(f"{str(path)!r} is not a valid config: {one_line(error)}") from error
