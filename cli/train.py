"""cvae train"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli import _shared
from cvae.cli._flags import add_flags, read_flags
from cvae.config import SHORT_FLAGS, TrainConfig, flag
from cvae.flags import flags_of

if TYPE_CHECKING:
    from cvae.config import Config

DEFAULTS = vars(TrainConfig())

RESUMABLE = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.resumable)
"""The flags that may change when a run is resumed: the parameters of `cvae.resume`."""

Recipe = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="Recipe to take flags from: a name, a .toml or a config.json.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PART.OPTION=VALUE", help="Set an option of a part, such as arch.width=32; may be repeated."
    ),
]


@add_flags(TrainConfig)
def train(
    recipe: Recipe = None,
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Folder of the run. [a new one under runs/]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the newest run.")] = False,
    set_: Set = None,
    json: _shared.Json = False,
    **flags: Any,
) -> None:
    """Train a model into a new folder under runs/.

    Without --data it learns the bundled handwritten digits, which need no download.

    Example: cvae train --arch resnet --conditional
    """
    from cvae.run import read_metrics

    _shared.require_torch("cvae train")
    overrides = read_flags(TrainConfig, flags, set_ or [])
    if resume:
        run = _continue(out, merge_layers(read_layers(recipe, overrides)))
    else:
        config = build_config(recipe, overrides)
        run = _start(config, run_name(recipe, config), out)
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process reports for all
        return
    last = read_metrics(run)[-1]
    _shared.report(json, {"run": str(run), **last}, f"{run}: trained; next: cvae export onnx {run}")


def build_config(recipe: str | None, overrides: dict[str, Any]) -> TrainConfig:
    """Return the config of a recipe and the flags that override it, with the network of the run that `--init` names."""
    from cvae.serialization import from_dict

    layers = read_layers(recipe, overrides)
    init = merge_layers(layers).get("init")
    network = {} if init is None else _network_of(init)
    return from_dict(TrainConfig, {**DEFAULTS, **merge_layers([network, *layers])})


def read_layers(recipe: str | None, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the flags of a recipe, and those that override it."""
    from cvae import model_zoo
    from cvae.recipes import read_recipe

    return [read_recipe(model_zoo.recipe(recipe)) if recipe else {}, overrides]


def merge_layers(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge layers of flags, a later one over an earlier one. Defaults are not filled in.

    The options of a part are dropped where a later layer chooses another part.
    """
    merged = {name: value for layer in layers for name, value in layer.items()}
    options: dict[str, dict[str, Any]] = {}
    so_far = DEFAULTS
    for layer in layers:
        so_far = {**so_far, **layer}
        for part, values in layer.get("options", {}).items():
            if so_far.get(part) == {**DEFAULTS, **merged}.get(part):
                options.setdefault(part, {}).update(values)
    return {**merged, "options": options}


def _network_of(init: str) -> dict[str, Any]:
    """Return the flags that rebuild the network of a run, to start from its weights."""
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
    return {
        **{name: part.name for name, part in config.model.parts.items()},
        "conditional": config.training.conditional,
        "latent_dim": config.model.latent_dim,
        "options": {name: dict(part.options) for name, part in config.model.parts.items()},
    }


def run_name(recipe: str | None, config: TrainConfig) -> str:
    """Return the name of a run's folder: that of its recipe, or else of its data and architecture."""
    if recipe is None:
        return "-".join([config.data.partition(":")[0], config.arch, *["conditional"] * config.conditional])
    from cvae.run import CONFIG

    path = Path(recipe)
    return path.parent.name if path.name == CONFIG else path.stem


def _start(config: TrainConfig, name: str, out: Path | None) -> Path:
    import cvae
    from cvae.errors import UsageError
    from cvae.run import create_run_folder

    if out is not None:
        return cvae.train(config, out)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("several processes need one folder to train into; name it with --out")
    out = create_run_folder(name)
    try:
        return cvae.train(config, out)
    finally:
        with suppress(OSError):  # the folders are empty if the training could not start
            out.rmdir()
            out.parent.rmdir()


def _continue(out: Path | None, overrides: dict[str, Any]) -> Path:
    import cvae
    from cvae.errors import UsageError
    from cvae.run import last_saved_run, read_config

    if out is None:
        if (out := last_saved_run()) is None:
            raise UsageError("there is no run under 'runs' to resume; name one with --out")
        _shared.say(f"newest run: {out}")
    check_agreement(overrides, read_config(out), out)
    return cvae.resume(out, **{name: _as_tuple(overrides[name]) for name in RESUMABLE if name in overrides})


def check_agreement(overrides: dict[str, Any], config: "Config", run: Path) -> None:
    """Check that flags repeat those that a run was started with, except for flags that may change.

    Raises:
        UsageError: A flag differs.
    """
    from cvae.errors import UsageError

    recorded = config.training
    options = {
        "objective": recorded.options.get("objective", {}),
        **{name: part.options for name, part in config.model.parts.items()},
    }

    def difference(spelling: str, value: Any, start: Any) -> UsageError:
        start_text = f"without {spelling}" if start in (None, ()) else f"with {_format(spelling, start)}"
        return UsageError(
            f"{_format(spelling, value)}: {str(run)!r} was started {start_text}; leave it out (only "
            f"{', '.join(map(flag, RESUMABLE))} can change on --resume), or start a new run with another --out"
        )

    for name, value in overrides.items():
        if name not in (*RESUMABLE, "options") and not _agree(name, value, config):
            raise difference(flag(name), value, getattr(recorded, name))
    for part, values in overrides["options"].items():
        for option, value in values.items():
            start = options.get(part, {}).get(option)
            if value != start:
                short = option in SHORT_FLAGS and SHORT_FLAGS[option].part == part
                raise difference(flag(option) if short else f"--set {part}.{option}", value, start)


def _agree(name: str, value: Any, config: "Config") -> bool:
    """Return whether the value of a flag agrees with the config of a run."""
    facts, recorded, value = flags_of(TrainConfig)[name], getattr(config.training, name), _as_tuple(value)
    if facts.resolved and value == DEFAULTS[name]:  # the run would choose again as it did
        return True
    if name == "size" and value is not None:
        return value == recorded or TrainConfig(size=value).sides == config.model.image_shape[1:]
    canonical = facts.canonical or (lambda value: value)
    return canonical(value) == canonical(recorded)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _format(spelling: str, value: Any) -> str:
    """Format a flag and its value as on the command line."""
    from cvae.errors import one_line

    if isinstance(value, tuple | list) and " " not in spelling:
        return " ".join(_format(spelling, each) for each in value)
    if isinstance(value, bool) and spelling.startswith("--") and " " not in spelling:
        return spelling if value else spelling.replace("--", "--no-", 1)
    return f"{spelling}{'=' if ' ' in spelling else ' '}{one_line(repr(value), 80)}"
