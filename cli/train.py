"""cvae train"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli import _shared
from cvae.config import TrainConfig

if TYPE_CHECKING:
    from cvae.config import Config

_default = TrainConfig()

RESUMABLE = ("epochs", "device", "on_nan", "compile", "trackers", "data_dir")
"""What may change when a run is resumed: the parameters of `cvae.resume`."""


def _flag(text: str, default: Any = None, *names: str) -> Any:
    """An option that is None unless given, so that a recipe's value stands; its help tells the default."""
    shown = "" if default is None or default is False else f" [{default}]"
    return typer.Option(*names, help=text + shown, show_default=False)


def train(
    recipe: Annotated[
        str | None, typer.Option(help="Flags from a recipe: a name, a .toml, or a run's config.json.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [a new one under runs/]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --out, or the newest run.")] = False,
    arch: Annotated[str | None, _flag("Architecture; `cvae archs` lists them.", _default.arch)] = None,
    conditional: Annotated[bool | None, _flag("Learn to draw by label.")] = None,
    conditioning: Annotated[str | None, _flag("How labels enter: film or concat.", _default.conditioning)] = None,
    likelihood: Annotated[str | None, _flag("p(x|z). [bernoulli for black on white, else gaussian-optimal]")] = None,
    prior: Annotated[str | None, _flag("p(z).", _default.prior)] = None,
    latent_dim: Annotated[int | None, _flag("Numbers in a code.", _default.latent_dim)] = None,
    data: Annotated[
        str | None, _flag("Data set: a name, folder:PATH, folder-classes:PATH or npz:PATH.", _default.data)
    ] = None,
    data_dir: Annotated[str | None, _flag("Where data sets are, or are downloaded to. [~/.cache/cvae]")] = None,
    size: Annotated[
        str | None,
        typer.Option(
            parser=_shared.as_size,
            metavar="SIZE",
            help="Side in pixels, or HxW, that images are made. [as they are; folders: 64]",
        ),
    ] = None,
    binarize: Annotated[
        str | None, _flag("Draw pixels black or white: none, dynamic, static.", _default.binarize)
    ] = None,
    validation: Annotated[float | None, _flag("Fraction held out to select weights by.", _default.validation)] = None,
    without: Annotated[list[str] | None, _flag("Leave out the images of this class; may be repeated.")] = None,
    limit: Annotated[int | None, _flag("Train on the first N images only.")] = None,
    flip: Annotated[bool | None, _flag("Mirror training images left to right, half of the time.")] = None,
    shift: Annotated[int | None, _flag("Pixels by which training images move at most.", _default.shift)] = None,
    crop: Annotated[float | None, _flag("Smallest part of a training image's side to be seen.", _default.crop)] = None,
    objective: Annotated[str | None, _flag("What is minimized.", _default.objective)] = None,
    beta: Annotated[float | None, _flag("Weight of the KL term. [1]")] = None,
    free_bits: Annotated[
        float | None, _flag("Nats that cost nothing: per latent dimension; with a flow, in all. [0]")
    ] = None,
    kl_warmup: Annotated[
        float | None, _flag("Epochs until the KL term has its full weight.", _default.kl_warmup)
    ] = None,
    init: Annotated[str | None, _flag("Begin with the weights of this run or zoo model. [drawn by --seed]")] = None,
    epochs: Annotated[int | None, _flag("Passes over the data. [10; for small sets, until 1,500 steps]")] = None,
    batch_size: Annotated[int | None, _flag("Images per step.", _default.batch_size)] = None,
    accumulate: Annotated[int | None, _flag("Parts in which a batch is computed, to save memory.", 1)] = None,
    optimizer: Annotated[str | None, _flag("adam or adamw.", _default.optimizer)] = None,
    lr: Annotated[float | None, _flag("Learning rate.", _default.lr)] = None,
    weight_decay: Annotated[float | None, _flag("Of the optimizer.", _default.weight_decay)] = None,
    schedule: Annotated[
        str | None, _flag("Learning rate over time: constant, cosine, step.", _default.schedule)
    ] = None,
    milestones: Annotated[
        list[int] | None,
        _flag("Epochs after which --schedule step takes a tenth. [half, three quarters]", None, "--milestone"),
    ] = None,
    warmup: Annotated[int | None, _flag("Steps until the full learning rate.", _default.warmup)] = None,
    clip: Annotated[float | None, _flag("Largest norm of the gradient; 0: any.", _default.clip)] = None,
    ema: Annotated[float | None, _flag("Decay of the averaged weights, as 0.999; 0: none.", _default.ema)] = None,
    on_nan: Annotated[
        str | None, _flag("At a loss that is not finite: stop, or skip the batch.", _default.on_nan)
    ] = None,
    seed: Annotated[int | None, _flag("Of weights, noise and order.", _default.seed)] = None,
    device: Annotated[str | None, _flag("auto, cpu, cuda, mps.", _default.device)] = None,
    precision: Annotated[str | None, _flag("auto, fp32, bf16, fp16.", _default.precision)] = None,
    compile: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the network. [when it pays]", show_default=False),
    ] = None,
    trackers: Annotated[
        list[str] | None,
        _flag("Log there too: tensorboard, wandb, mlflow, none. [the first, if installed]", None, "--tracker"),
    ] = None,
    set_: Annotated[list[str] | None, _flag("An option of a part, as arch.width=32.", None, "--set")] = None,
    json: _shared.Json = False,
) -> None:
    """Train a model into a new folder under runs/.

    Without --data it learns the bundled handwritten digits: no download.

    Example: cvae train --arch resnet --conditional
    """
    from cvae.run import read_metrics

    _shared.require_torch("cvae train")
    given = {name: value for name, value in locals().items() if value is not None and hasattr(_default, name)}
    if resume:
        run = _continue(out, merge_flags(layers_of(recipe, given, set_ or [])))
    else:
        asked = asked_for(recipe, given, set_ or [])
        run = _start(asked, name_for(recipe, asked), out)
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return
    last = read_metrics(run)[-1]
    _shared.report(json, {"run": str(run), **last}, f"{run}: trained; next: cvae export onnx {run}")


def asked_for(recipe: str | None, given: dict[str, Any], assignments: list[str]) -> TrainConfig:
    """What flags, `--set` and a recipe ask for together; a flag goes before the recipe."""
    from cvae.serialization import from_dict

    layers = layers_of(recipe, given, assignments)
    init = merge_flags(layers).get("init")
    network = {} if init is None else _network_of(init)
    return from_dict(TrainConfig, {**vars(_default), **merge_flags([network, *layers])})


def layers_of(recipe: str | None, given: dict[str, Any], assignments: list[str]) -> list[dict[str, Any]]:
    """Return the flags of a recipe, and those of the command line with the options that `--set` assigns."""
    from cvae import model_zoo
    from cvae.recipes import parse_options, read_recipe

    flags = read_recipe(model_zoo.recipe(recipe)) if recipe else {}
    return [flags, {**given, "options": parse_options(assignments)}]


def merge_flags(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge layers of flags, a later one over an earlier one. Defaults are not filled in."""
    merged = {name: value for layer in layers for name, value in layer.items()}
    options: dict[str, dict[str, Any]] = {}
    so_far = vars(_default)
    for layer in layers:
        so_far = {**so_far, **layer}
        for kind, values in layer.get("options", {}).items():
            if so_far.get(kind) == {**vars(_default), **merged}.get(kind):  # a later layer's part has its own options
                options.setdefault(kind, {}).update(values)
    return {**merged, "options": options}


def _network_of(init: str) -> dict[str, Any]:
    """The flags that make the network of a run, for one that begins with its weights."""
    from cvae import model_zoo
    from cvae.errors import UsageError
    from cvae.run import read_config
    from cvae.runtime.find import find

    try:
        folder = find(init)
    except UsageError as error:
        if init not in model_zoo.recipes():
            raise
        raise UsageError(f"--init {init!r}: train it first, with: cvae train --recipe {init}") from error
    config = read_config(folder)
    model, training = config.model, config.training
    parts = {"arch": model.architecture, "likelihood": model.likelihood, "prior": model.prior}
    if model.conditioning is not None:
        parts["conditioning"] = model.conditioning
    return {
        **{flag: part.name for flag, part in parts.items()},
        "conditional": training.conditional,
        "latent_dim": model.latent_dim,
        "options": {flag: dict(part.options) for flag, part in parts.items()},
    }


def name_for(recipe: str | None, asked: TrainConfig) -> str:
    """What a run is called when nobody named it: after its recipe, or after its data and architecture."""
    if recipe is None:
        return "-".join([asked.data.partition(":")[0], asked.arch, *["conditional"] * asked.conditional])
    from cvae.run import CONFIG

    path = Path(recipe)
    return path.parent.name if path.name == CONFIG else path.stem


def _start(asked: TrainConfig, name: str, out: Path | None) -> Path:
    import cvae
    from cvae.errors import UsageError
    from cvae.run import create_run_folder

    if out is not None:
        return cvae.train(asked, out)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("several processes need one folder to train into; name it with --out")
    out = create_run_folder(name)
    try:
        return cvae.train(asked, out)
    finally:
        with suppress(OSError):  # they are empty if the training could not begin
            out.rmdir()
            out.parent.rmdir()


def _continue(out: Path | None, flags: dict[str, Any]) -> Path:
    import cvae
    from cvae.errors import UsageError
    from cvae.run import last_saved_run, read_config

    if out is None:
        if (out := last_saved_run()) is None:
            raise UsageError("there is no run under 'runs' to resume; name one with --out")
        _shared.say(f"newest run: {out}")
    check_agreement(flags, read_config(out), out)
    return cvae.resume(out, **{name: _as_tuple(flags[name]) for name in RESUMABLE if name in flags})


def check_agreement(flags: dict[str, Any], config: "Config", run: Path) -> None:
    """Check that flags repeat what a run was started with, except for those that may change.

    Raises:
        UsageError: a flag says something else.
    """
    from cvae.config import flag
    from cvae.errors import UsageError

    recorded, model = config.training, config.model
    parts = {
        "arch": model.architecture,
        "conditioning": model.conditioning,
        "likelihood": model.likelihood,
        "prior": model.prior,
    }
    options = {kind: part.options for kind, part in parts.items() if part}
    options["objective"] = recorded.options.get("objective", {})

    def difference(name: str, value: Any, start: Any) -> UsageError:
        return UsageError(
            f"{_spelled(name, value)}: {str(run)!r} was started "
            f"{f'without {name}' if start in (None, ()) else f'with {_spelled(name, start)}'}; leave it out (only "
            f"{', '.join(map(flag, RESUMABLE))} can change on --resume), or start a new run with another --out"
        )

    for name, value in flags.items():
        if name in ("beta", "free_bits"):  # recorded among the options
            start = options["objective"].get(name)
            if value not in (None, start):
                raise difference(flag(name), value, start)
        elif name not in (*RESUMABLE, "options"):
            start = getattr(recorded, name)
            if not _agree(name, value, start, config):
                raise difference(flag(name), value, start)
    for kind, values in flags["options"].items():
        for option, value in values.items():
            start = options.get(kind, {}).get(option)
            overruled = kind == "objective" and flags.get(option) is not None  # by --beta or --free-bits
            if value != start and not overruled:
                raise difference(f"--set {kind}.{option}", value, start)


def _agree(name: str, value: Any, recorded: Any, config: "Config") -> bool:
    """Return whether a flag's value agrees with the run's config."""
    match name:
        case "likelihood":
            return value in (None, recorded)  # None: chosen by the data, which are the same
        case "precision":
            return value in ("auto", recorded)
        case "size":
            return value == recorded or TrainConfig(size=value).sides == config.model.image_shape[1:]
        case "data":
            (kind, _, path), (recorded_kind, _, recorded_path) = value.partition(":"), recorded.partition(":")
            return kind == recorded_kind and _resolved(path) == _resolved(recorded_path)
        case "init":
            return value == recorded or (None not in (value, recorded) and _resolved(value) == _resolved(recorded))
        case "without":
            return set(value) == set(recorded)
        case _:
            return _as_tuple(value) == recorded


def _resolved(path: str) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError:  # the home folder of an unknown user
        return Path(path)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _spelled(name: str, value: Any) -> str:
    """Format a flag and its value as on the command line."""
    from cvae.errors import one_line

    if isinstance(value, tuple | list) and " " not in name:
        return " ".join(_spelled(name, each) for each in value)

    if isinstance(value, bool) and name.startswith("--") and " " not in name:
        return name if value else name.replace("--", "--no-", 1)
    return f"{name}{'=' if ' ' in name else ' '}{one_line(repr(value), 80)}"
