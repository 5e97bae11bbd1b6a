"""The command `cvae tune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.cli import _shared
from cvae.cli._flags import add_flags, read_flags
from cvae.cli.train import Recipe, Set, build_config, make_run_name
from cvae.config import OUTPUT, TrainConfig


@add_flags(TrainConfig)
def tune(
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Total number of trials in the study, including earlier ones.")
    ] = 20,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Flag or option to vary: lr=1e-4..1e-2:log, latent_dim=8,16 or arch.width=16,32; may be repeated.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the study. [default: made from the recipe, or from the data and model]"
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="File or database of the study, which several machines can share. [default: a file in --out]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder of the study. [default: studies/NAME]", rich_help_panel=OUTPUT),
    ] = None,
    recipe: Recipe = None,
    set_: Set = None,
    json: _shared.Json = False,
    **flags: Any,
) -> None:
    """Search for the flags of `cvae train` that give the best bound.

    All flags of `cvae train` are available. --search, or the [search] table of a recipe, says what to vary. Repeat the
    command to continue an interrupted study.

    Examples:
      cvae tune --arch mlp --conditional --trials 20
      cvae tune --search lr=1e-4..1e-2:log --search arch.width=16,32
      cvae tune --study digits --storage sqlite:///studies.db
    """
    from importlib.util import find_spec

    from cvae import model_zoo
    from cvae.errors import MissingExtraError

    if not all(map(find_spec, ("torch", "optuna", "psutil"))):
        raise MissingExtraError("cvae tune", "tune")
    from cvae.tuning.report import plot, summary, table
    from cvae.tuning.search_space import default_space, make_space, parse_search, read_search
    from cvae.tuning.study import Study

    path = model_zoo.recipe(recipe) if recipe else None
    overrides = read_flags(TrainConfig, flags, set_ or [])
    base = build_config(recipe, overrides)
    varied = {**(read_search(path) if path else {}), **parse_search(search or [])}
    space = make_space(varied) if varied else default_space(base, overrides)

    name = study or (out.name if out else make_run_name(recipe, base))
    current = Study(base, space, name=name, out=out or Path("studies") / name, storage=storage)
    current.run(trials)
    images = plot(current)
    text = f"{table(current)}\nplots: {', '.join(map(str, images))}"
    _shared.report(json, {**summary(current), "pictures": list(map(str, images))}, text)
