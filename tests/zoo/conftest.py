"""Import of the scripts that make the zoo models."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "model_zoo" / "scripts"


@pytest.fixture
def import_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """A function that imports a script by its name, until the end of the test."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names: list[str] = []

    def load(name: str) -> ModuleType:
        names.append(name)
        return importlib.import_module(name)

    yield load
    for name in names:
        del sys.modules[name]
