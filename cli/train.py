"""The command `cvae train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.api import arguments
from cvae.api.train_config import DEFAULTS, RESUMABLE, merge_layers, read_layers
from cvae.cli import _completion, _shared
from cvae.cli._flags import add_flags, read_flags
from cvae.config import MODEL, OUTPUT, SHORT_FLAGS, TrainConfig, flag
from cvae.flags import flags_of

if TYPE_CHECKING:
    from cvae.api.run import Run
    from cvae.config import Config

Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Recipe to take flags from: a name, a .toml file or a config.json.",
        autocompletion=_completion.recipes,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PART.OPTION=VALUE",
        help="Set an option of a part, such as arch.width=32; may be repeated. `cvae parts NAME` lists the options.",
        rich_help_panel=MODEL,
    ),
]


@add_flags(TrainConfig)
def train(
    recipe: Recipe = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder of the run. [default: a new folder under runs/]", rich_help_panel=OUTPUT
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the newest run.")] = False,
    set_: Set = None,
    export: Annotated[
        bool,
        typer.Option(
            "--export/--no-export",
            help="Export the trained model to ONNX, as cvae export onnx does.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    json: _shared.Json = False,
    **flags: Any,
) -> None:
    """Train a model, and export it to ONNX.

    The run is a new folder under runs/. Without --data, the model is trained on 12,000 MNIST digits that come with the
    package.

    Examples:
      cvae train --conditional
      cvae train --data folder:photos --size 64 --epochs 20
      cvae train --arch mlp --minutes 2
      cvae train --recipe mnist-resnet-conditional --set arch.width=32
      cvae train --resume --out runs/mnist-small-resnet --epochs 20
    """
    import cvae

    arguments.require_torch("cvae train")
    overrides = read_flags(TrainConfig, flags, set_ or [])
    if resume:
        run = _continue(out, merge_layers(read_layers(recipe, overrides)), export)
    else:
        run = cvae.train(out=out, recipe=recipe, export=export, **overrides)
    from cvae.engine.processes import is_main_process

    if is_main_process():
        result = {"run": str(run), **run.metrics[-1], "exported": export}
        _shared.report(json, result, f"{run}: trained{' and exported' if export else ''}")


def _continue(out: Path | None, overrides: dict[str, Any], export: bool) -> "Run":
    import cvae
    from cvae.errors import UsageError
    from cvae.run import find_run, last_saved_run, read_config

    if out is None:
        if (out := last_saved_run()) is None:
            raise UsageError("there is no run under 'runs' to resume; name one with --out")
        _shared.echo(f"newest run: {out}")
    elif (run := find_run(out)) is None:
        raise UsageError(f"there is no run {str(out)!r} to resume; list the runs with: cvae runs")
    else:
        out = run
    check_agreement(overrides, read_config(out), out)
    changes = {name: _as_tuple(overrides[name]) for name in RESUMABLE if name in overrides}
    return cvae.resume(out, export=export, **changes)


def check_agreement(overrides: dict[str, Any], config: "Config", run: Path) -> None:
    """Check that all flags that may not change have the same values as when the run was started.

    Raises:
        UsageError: If a flag differs.
    """
    from cvae.errors import UsageError

    recorded = config.training
    options = {
        **{name: recorded.options.get(name, {}) for name in recorded.training_parts},
        **{name: part.options for name, part in config.model.parts.items()},
    }

    def difference_error(spelling: str, value: Any, start: Any) -> UsageError:
        start_text = f"without {spelling}" if start in (None, ()) else f"with {_format(spelling, start)}"
        return UsageError(
            f"{_format(spelling, value)}: {str(run)!r} was started {start_text}; remove the flag (only "
            f"{', '.join(map(flag, RESUMABLE))} can change on --resume), or start a new run with a different --out"
        )

    for name, value in overrides.items():
        if name not in (*RESUMABLE, "options") and not _agrees(name, value, config):
            raise difference_error(flag(name), value, getattr(recorded, name))
    for part, values in overrides["options"].items():
        for option, value in values.items():
            start = options.get(part, {}).get(option)
            if value != start:
                short = option in SHORT_FLAGS and SHORT_FLAGS[option].part == part
                raise difference_error(flag(option) if short else f"--set {part}.{option}", value, start)


def _agrees(name: str, value: Any, config: "Config") -> bool:
    """Return whether the value of a flag agrees with the config of a run."""
    flag, recorded, value = flags_of(TrainConfig)[name], getattr(config.training, name), _as_tuple(value)
    if flag.resolved and value == DEFAULTS[name]:  # the run would make the same choice again
        return True
    if name == "size" and value is not None:
        return value == recorded or TrainConfig(size=value).sides == config.model.image_shape[1:]
    canonical = flag.canonical or (lambda value: value)
    return canonical(value) == canonical(recorded)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _format(spelling: str, value: Any) -> str:
    """Format a flag and its value as on the command line."""
    from cvae.errors import one_line

    if isinstance(value, tuple | list) and " " not in spelling:
        return " ".join(_format(spelling, item) for item in value)
    if isinstance(value, bool) and spelling.startswith("--") and " " not in spelling:
        return spelling if value else spelling.replace("--", "--no-", 1)
    return f"{spelling}{'=' if ' ' in spelling else ' '}{one_line(repr(value), 80)}"
