"""Shell completion of the names of parts, models, recipes, classes and conditions. Does not import torch."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

from cvae import registry

if TYPE_CHECKING:
    from cvae.conditions import Condition

Completion = Callable[..., Iterable[Any]]
"""Function that returns values or (value, description) pairs. typer drops values that don't fit the input."""


def choices(*values: str) -> Completion:
    """Return a completion function that offers these values."""
    return lambda: values


def parts(name: str) -> Completion:
    """Return a completion function that offers the names in the registry `registry.REGISTRIES[name]`."""
    names = registry.REGISTRIES[name]
    # The name of a data set that needs an argument is completed with the colon, as in folder:PATH.
    return lambda: [(part + ":" * (part in registry.ARGUMENT_DATASETS), names.summary(part)) for part in names]


def runs() -> list[tuple[str, str]]:
    """Return the names of the runs under `runs/`, newest first."""
    from cvae.run import list_runs

    return [(run.name, f"run in {run}") for run in list_runs()]


def zoo_models() -> list[tuple[str, str]]:
    """Return the names of the zoo models."""
    from cvae import model_zoo

    return [(name, model_zoo.summary(name)) for name in model_zoo.models()]


def models() -> list[tuple[str, str]]:
    """Return the names of the runs and of the zoo models."""
    return list({**dict(zoo_models()), **dict(runs())}.items())


def recipes() -> list[tuple[str, str]]:
    """Return the names of the recipes."""
    from cvae import model_zoo

    return [(name, model_zoo.summary(name)) for name in model_zoo.recipes()]


def zoo_names() -> list[tuple[str, str]]:
    """Return the names of the zoo models and of the recipes."""
    return list(dict([*zoo_models(), *recipes()]).items())


def part_names() -> list[tuple[str, str]]:
    """Return the names in all registries."""
    return [(name, f"{names.kind}: {names.summary(name)}") for names in registry.REGISTRIES.values() for name in names]


def labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the class names of the model on the command line, or else of the model that the command uses by default.

    In a list such as `3,4`, the last name is completed.
    """
    from cvae.conditions import single_category

    category = single_category(_read_conditions(ctx))
    return _complete_list(incomplete, () if category is None else category.values)


def conditions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the conditions of the model, such as `age=`, or the values of the condition that is named."""
    from cvae.conditions import NUMBER

    found = {condition.name: condition for condition in _read_conditions(ctx)}
    name, equals, value = incomplete.partition("=")
    if not equals or name not in found:
        return [f"{name}=" for name in found]
    condition = found[name]
    values = ("yes", "no") if condition.values == (name,) else () if condition.kind == NUMBER else condition.values
    return [f"{name}={text}" for text in _complete_list(value, values)]


def _complete_list(incomplete: str, names: Iterable[str]) -> list[str]:
    """Return the names that complete the last name of a list such as `3,4`."""
    head, comma, _ = incomplete.rpartition(",")
    return [f"{head}{comma}{name}" for name in names]


def _read_conditions(ctx: typer.Context) -> "tuple[Condition, ...]":
    """Return the conditions of the model on the command line, or else of the model that the command uses by default."""
    from cvae.errors import CvaeError
    from cvae.run import DECODER, is_run, read_config
    from cvae.runtime.find import newest
    from cvae.runtime.hub import SCHEME

    model = _find_model(ctx)
    if str(model).startswith(SCHEME):  # no download while the user types
        return ()
    try:
        path, _ = newest(model)
        if is_run(path):
            return read_config(path).model.conditions
        from cvae.runtime.session import read_spec

        return read_spec(path if path.is_file() else path / DECODER)[0].conditions
    except CvaeError:
        return ()


def _find_model(ctx: typer.Context) -> str | None:
    """Return the model on the command line, if there is one."""
    for param in ctx.command.params:
        if param.metavar == "MODEL":
            is_argument = param.param_type_name == "argument"
            # An option without a value stops the parser before it has assigned the arguments.
            value = ctx.params.get(param.name or "") or (ctx.args[0] if is_argument and ctx.args else None)
            if value is not None:
                return str(value)
    return None
