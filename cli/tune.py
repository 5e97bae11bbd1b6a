"""The command `cvae tune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.api import tuning
from cvae.cli import _shared
from cvae.cli._flags import add_flags, read_flags
from cvae.cli.train import Recipe, Set
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
            help="Flag or option to vary, such as lr=1e-4..1e-2:log, latent_dim=8,16 or arch.width=16,32; may be "
            "repeated.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the study. [default: derived from the recipe, or from the data and model]"
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="File or database of the study. Several machines can share it. [default: a file in --out]",
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
    """Search for the values of `cvae train` flags that give the best bound.

    All flags of `cvae train` are available. --search, or the [search] table of a recipe, selects those to vary. Repeat
    the command to continue an interrupted study.

    Examples:
      cvae tune --arch mlp --conditional --trials 20
      cvae tune --search lr=1e-4..1e-2:log --search arch.width=16,32
      cvae tune --study digits --storage sqlite:///studies.db
    """
    overrides = read_flags(TrainConfig, flags, set_ or [])
    report = tuning.tune(
        trials=trials, search=search, study=study, storage=storage, out=out, recipe=recipe, **overrides
    )
    from cvae.tuning.report import table

    _shared.report(json, report, f"{table(report)}\nplots: {', '.join(report['pictures'])}")
