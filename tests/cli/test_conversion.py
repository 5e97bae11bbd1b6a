"""Conversion of values on the command line without pydantic, compared with that of typer."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from cvae.cli._conversion import Converter

pytestmark = pytest.mark.skipif(
    not hasattr(get_command(typer.Typer(callback=lambda: None)).params[0], "get_runtime_param"),
    reason="this version of typer does not use pydantic",
)


def make_params() -> dict[str, Any]:
    """Return parameters of the types that the commands use."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(
        names: list[str] | None = None,
        name: str | None = None,
        number: int | None = None,
        size: Annotated[int, typer.Option(min=1, max=9)] = 3,
        scale: Annotated[float, typer.Option(min=0)] = 1,
        out: Path = Path("x.png"),
        numbers: list[int] | None = None,
        side: Annotated[str | None, typer.Option(parser=lambda text: int(text) if text.isdecimal() else text)] = None,
        flag: bool | None = None,
        words: Annotated[list[str] | None, typer.Argument()] = None,
    ) -> None: ...

    return {param.name: param for param in get_command(app).params}


VALUES = {
    "names": [None, ["a", "b"], [""]],
    "name": [None, "", "7", " x"],
    "number": [None, "5", "-5", "+5", "007", 5],
    "size": [3, "9", "1"],
    "scale": [1, 1.5, "0", "1.5", "1e-3", ".5", "5.", "2E+2"],
    "out": [Path("x.png"), "a/b.png", "", "."],
    "numbers": [None, ["1", "2"]],
    "side": [None, "64", "48x80"],
    "flag": [None],
    "words": [None, ["a"]],
}
"""For each parameter, values that are converted without pydantic."""

LEFT_TO_TYPER = {
    "number": ["x", "1.5", "5.0", " 5 ", "1_000", "٣", ""],
    "size": ["0", "10", "x"],
    "scale": ["-1", "x", "inf", "nan", "1e400x"],
    "out": [3],
    "numbers": [["1", "x"]],
    "names": ["text"],
}
"""For each parameter, values that typer converts or rejects."""


def result_of(convert: Any, param: Any, value: Any) -> tuple[Any, str]:
    """Return the result of a conversion and its type, or the message of the error."""
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    try:
        result = convert.coerce(value, param=param, ctx=context)
    except Exception as error:
        return type(error), str(error)
    return result, repr(result)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_valid_value_is_converted_as_by_typer(name, value):
    param = make_params()[name]
    converter = Converter(param)
    expected = result_of(param.get_runtime_param(), param, value)
    converter.typer_converter = SimpleNamespace  # has no method `coerce`
    assert result_of(converter, param, value) == expected and not isinstance(expected[0], type)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LEFT_TO_TYPER.items() for value in values]
)
def test_any_other_value_is_left_to_typer(name, value):
    param = make_params()[name]
    assert result_of(Converter(param), param, value) == result_of(param.get_runtime_param(), param, value)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of files")
def test_file_without_read_permission_is_left_to_typer(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    param = make_params()["out"]
    error, message = result_of(Converter(param), param, str(tmp_path))
    assert isinstance(error, type) and "not readable" in message


@pytest.mark.integration
def test_first_digit_needs_neither_pydantic_nor_the_other_commands(tmp_path):
    program = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules)))\n"
    program += "from cvae.__main__ import main; main(['generate', '--digit', '7', '--temperature', '0.8', '-n', '2'])"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    modules = set(result.stdout.splitlines()[-1].split())
    assert "cvae.cli.generate" in modules
    unused = {"pydantic", "rich", "huggingface_hub", "cvae.cli.train", "cvae.cli.export", "cvae.config", "tomllib"}
    assert not unused & modules
