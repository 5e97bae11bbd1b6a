"""Each command and its function in Python have the same parameters with the same defaults."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import cvae
from cvae.cli import make_app
from cvae.config import TrainConfig

NOT_IN_PYTHON = {"json", "ctx", "model_option"}
"""Parameters that only commands have: for the format of the output, the context, and the option -m."""

ONLY_IN_PYTHON = {"note", "progress"}
"""Parameters that only functions have: callbacks for what the commands print to standard error."""

EXCEPTIONS: dict[str, tuple[set[str], set[str]]] = {
    # In Python, `--resume` is the function `resume`, and `--set` is the argument `options`.
    "train": (
        {"resume", "set"},
        {"config", "images", "labels", "classes", "conditions", "options", "quiet", "on_epoch"},
    ),
    "tune": ({"set"}, {"options"}),
    "interpolate": (set(), {"to_conditions"}),  # --to sets both the last image and the conditions at the end
    "export": ({"license", "half", "out", "webgpu", "encoder"}, {"options"}),  # the options of the built-in exporters
}
"""For some commands, further parameters that only the command has, and those that only its function has."""

SEEDS = {("interpolate", "start")}
"""Parameters whose default is a seed. In a command, it is text, because the value may also be the name of a file."""


def list_commands() -> dict[str, Callable[..., Any]]:
    """Return the callbacks of all commands that the help lists, by name, such as "zoo list"."""
    commands = {}
    app = make_app()
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    for prefix, group in groups:
        assert group is not None
        for command in group.registered_commands:
            if command.callback is not None and not command.hidden:
                commands[prefix + (command.name or command.callback.__name__)] = command.callback
    return commands


COMMANDS = list_commands()


def find_function(command: str) -> Callable[..., Any]:
    function: Any = cvae
    for name in command.split():
        function = getattr(function, name)
    return function  # type: ignore[no-any-return]


def read_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the default of each parameter that the help shows, by name; `set_` becomes "set"."""
    parameters = {}
    for parameter in inspect.signature(function).parameters.values():
        info = (getattr(parameter.annotation, "__metadata__", None) or [None])[0]
        if not getattr(info, "hidden", False):
            parameters[parameter.name.rstrip("_")] = parameter.default
    return parameters


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_function_have_the_same_parameters(command):
    function = find_function(command)
    command_only, function_only = EXCEPTIONS.get(command, (set(), set()))
    options, parameters = read_parameters(COMMANDS[command]), read_parameters(function)
    assert options.keys() - NOT_IN_PYTHON - command_only == parameters.keys() - ONLY_IN_PYTHON - function_only
    differing = {
        name: (default, parameters[name])
        for name, default in options.items()
        if name in parameters
        and parameters[name] != (int(default) if (command, name) in SEEDS else default)
        and (name, parameters[name]) != ("out", None)
    }
    if command in ("train", "tune"):  # an unused flag is None, so that it does not override a recipe
        fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
        differing = {n: d for n, d in differing.items() if n not in fields or d != (None, parameters[n])}
        assert all(parameters[name] == fields[name] for name in options.keys() & fields.keys())
    assert differing == {}
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    positional = [kind for kind in kinds if kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)]
    assert len(positional) <= 2, "at most two parameters may be positional"


@pytest.mark.parametrize("command", COMMANDS)
def test_function_is_documented(command):
    function = find_function(command)
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    assert text and ("Args:" in text) == bool(parameters)
    flags = {"kwargs", "flags"}
    missing = [name for name in parameters if name not in flags and f"    {name}: " not in text]
    assert missing == []
