"""The command `cvae zoo`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.api import zoo
from cvae.cli import _completion, _shared
from cvae.cli._help import App
from cvae.data_config import OUTPUT

app = App(help="List, show and copy the trained models and recipes of cvae.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Model from `cvae zoo list`.", autocompletion=_completion.zoo_models)
]
ModelOrRecipe = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Model or recipe from `cvae zoo list`.", autocompletion=_completion.zoo_names),
]


@app.command("list")
def list_(json: _shared.Json = False) -> None:
    """List the trained models, and the recipes for `cvae train --recipe`.

    Examples:
      cvae zoo list
    """
    result = zoo.list()
    _shared.report(json, result, format_list(**result))


def format_list(default: str, models: dict[str, dict[str, Any]], recipes: dict[str, str]) -> str:
    """Format the names and summaries of the models and recipes."""
    width = max(map(len, [*models, *recipes]))
    lines = ["models (cvae generate NAME, cvae zoo show NAME)"]
    for name, description in models.items():
        note = " (the default)" if name == default else ""
        note = note if description["installed"] else f" (not installed: model_zoo/{name} in the repository)"
        lines.append(f"  {name:{width}}  {description['summary']}{note}")
    lines += ["recipes (cvae train --recipe NAME)"]
    lines += [f"  {name:{width}}  {summary}" for name, summary in recipes.items()]
    return "\n".join(lines)


@app.command()
def show(name: ModelOrRecipe, json: _shared.Json = False) -> None:
    """Print the card of a model, or the text of a recipe.

    The card describes the data, license, training, metrics, intended use and limitations. A recipe is printed if no
    model has this name.

    Examples:
      cvae zoo show mnist-resnet-conditional
      cvae zoo show cars
    """
    result = zoo.show(name)
    _shared.report(json, result, (result.get("card") or result["recipe"]).rstrip())


@app.command()
def copy(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder to create. [default: runs/NAME]", rich_help_panel=OUTPUT),
    ] = None,
    json: _shared.Json = False,
) -> None:
    """Copy the folder of a model, to use or inspect its files.

    Examples:
      cvae zoo copy mnist-resnet-conditional
    """
    folder = zoo.copy(name, out=out)
    files = sorted(path.name for path in folder.iterdir())
    _shared.report(json, {"out": str(folder), "files": files}, f"{folder}: {', '.join(files)}")
