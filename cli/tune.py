"""cvae tune"""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.cli import _shared
from cvae.cli.train import asked_for, name_for, train


def tune(
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study in all.")] = 20,
    search: Annotated[
        list[str] | None,
        typer.Option(help="Vary a flag or an option: lr=1e-4..1e-2:log, latent_dim=8,16 or arch.width=16,32."),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Its name. [by the data and the model, or the recipe]")] = None,
    storage: Annotated[
        str | None, typer.Option(help="File or database URL that several machines share. [a file in --out]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study. [studies/NAME]")] = None,
    recipe: Annotated[str | None, typer.Option(help="As of cvae train; its table [search] says what to vary.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="An option of a part, as arch.width=32.")] = None,
    json: _shared.Json = False,
    **flags: Any,
) -> None:
    """Search for the flags of `cvae train` that give the best validation bound. All its flags are flags of this too.

    The same command again goes on with a study that was stopped.

    Example: cvae tune --arch mlp --conditional --trials 20
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
    given = {name: value for name, value in flags.items() if value is not None}
    base = asked_for(recipe, given, set_ or [])
    varied = {**(read_search(path) if path else {}), **parse_search(search or [])}
    space = make_space(varied) if varied else default_space(base, given)

    name = study or (out.name if out else name_for(recipe, base))
    search_of = Study(base, space, name=name, out=out or Path("studies") / name, storage=storage)
    search_of.run(trials)
    pictures = plot(search_of)
    text = f"{table(search_of)}\npictures: {', '.join(map(str, pictures))}"
    _shared.report(json, {**summary(search_of), "pictures": list(map(str, pictures))}, text)


def _with_the_flags_of_train() -> None:
    """Typer reads a command's options from its signature: here `**flags` becomes the flags of `cvae train`."""
    own = {name: p for name, p in inspect.signature(tune).parameters.items() if p.kind is not p.VAR_KEYWORD}
    of_train = {name: p for name, p in inspect.signature(train).parameters.items() if name != "resume"}
    parameters = {**own, **{name: p for name, p in of_train.items() if name not in own}}
    tune.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    tune.__annotations__ = {name: p.annotation for name, p in parameters.items()} | {"return": None}


_with_the_flags_of_train()
