"""The command `cvae zoo`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared
from cvae.errors import UsageError, suggest

app = typer.Typer(no_args_is_help=True, help="List, show and copy the trained models and recipes that come with cvae.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Model from `cvae zoo list`.")]
ModelOrRecipe = Annotated[str, typer.Argument(metavar="NAME", help="Model or recipe from `cvae zoo list`.")]


@app.command("list")
def list_(json: _shared.Json = False) -> None:
    """List the trained models, and the recipes for `cvae train --recipe`.

    Example: cvae zoo list
    """
    from cvae import model_zoo

    models = {name: model_zoo.describe(name) for name in model_zoo.models()}
    recipes = {name: model_zoo.summary(name) for name in model_zoo.recipes()}
    width = max(map(len, [*models, *recipes]))
    lines = ["models (cvae generate NAME, cvae zoo show NAME)"]
    for name, description in models.items():
        note = " (the default)" if name == model_zoo.DEFAULT else ""
        note = note if description["installed"] else f" (not installed: model_zoo/{name} in the repository)"
        lines.append(f"  {name:{width}}  {description['summary']}{note}")
    lines += ["recipes (cvae train --recipe NAME)"]
    lines += [f"  {name:{width}}  {summary}" for name, summary in recipes.items()]
    _shared.report(json, {"default": model_zoo.DEFAULT, "models": models, "recipes": recipes}, "\n".join(lines))


@app.command()
def show(name: ModelOrRecipe, json: _shared.Json = False) -> None:
    """Print the card of a model: data, license, training, metrics, intended use and limitations.

    For a recipe without a trained model, print the recipe.

    Example: cvae zoo show mnist-resnet-conditional
    """
    from cvae import model_zoo
    from cvae.run import CARD

    models, recipes = model_zoo.models(), model_zoo.recipes()
    known = {**models, **recipes}
    if name not in known:
        raise UsageError(f"there is no zoo model or recipe {name!r}; {suggest(name, known)}")
    if name not in models:
        flags = model_zoo.recipe(name).read_text("utf-8")
        _shared.report(json, {"name": name, "recipe": flags}, flags.rstrip())
        return
    card = (models[name] / CARD).read_text("utf-8")
    _shared.report(json, {"name": name, **model_zoo.describe(name), "card": card}, card.rstrip())


@app.command()
def copy(
    name: Name,
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Folder to create. [default: runs/NAME]")] = None,
    json: _shared.Json = False,
) -> None:
    """Copy the folder of a model, to use or inspect its files.

    Example: cvae zoo copy mnist-resnet-conditional
    """
    from cvae import model_zoo

    target = out or Path("runs") / name
    model_zoo.copy(name, target)
    files = sorted(path.name for path in target.iterdir())
    _shared.report(json, {"out": str(target), "files": files}, f"{target}: {', '.join(files)}")
