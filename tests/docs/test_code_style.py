"""Style rules of CONTRIBUTING.md: established names, short files, plain English."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # the tests run git to list the files

ROOT = Path(__file__).resolve().parents[2]

PARTICIPLES_AND_PREPOSITIONS = {
    "applied", "asked", "begun", "beside", "drawn", "found", "given", "kept", "least", "made", "most", "near", "of",
    "seen", "told", "wanted", "whole",
}  # fmt: skip

PRIVATE_VOCABULARY = {
    "Fold", "Unfold", "LOOKS", "Made", "Rows", "Seen", "UNSEEN", "YARDSTICK", "_each", "_need", "_take_back", "figures",
    "Judge", "judge", "pictures", "sheet", "strangers", "strictly", "sweep", "tightest",
}  # fmt: skip

ALLOWED = {
    "given": "the decorator of hypothesis",
    "whole": "a key of the search spaces that studies store",
}
"""Names that are used nevertheless, with the reason."""

MAX_LINES, MAX_TEST_LINES = 400, 600

NO_BEFORE_NOUN = re.compile(r"\b(?:is|are|was|were) no (?!longer|more|less|fewer|greater|one|other)\w+")
"""Matches "is no valid config", which should be "is not a valid config"."""

NATURAL_USES = ("there is no", "there are no", "there was no", "there were no")
"""Phrases in which "no" is natural: "there is no network"."""


def files(*suffixes: str) -> list[Path]:
    """Return the tracked files with these suffixes."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("this is not a git checkout")
    names = listing.stdout.decode().split("\0")
    paths = [ROOT / name for name in names if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names in a Python file, with their line numbers."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.keyword(arg=str(name)):
                yield name, node.lineno


def is_test(path: Path) -> bool:
    return path.is_relative_to(ROOT / "tests")


def test_names_are_not_participles_or_private_vocabulary() -> None:
    banned = (PARTICIPLES_AND_PREPOSITIONS | PRIVATE_VOCABULARY) - ALLOWED.keys()
    places = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(".py")
        for name, line in identifiers(path)
        if name in banned
    ]
    assert places == []


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in files(".py")}
    limits = {path: MAX_TEST_LINES if is_test(path) else MAX_LINES for path in lengths}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > limits[path]} == {}


def test_word_no_is_not_used_as_an_article() -> None:
    places = []
    for path in files(".py", ".md", ".toml"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            text = line.lower()
            for phrase in NATURAL_USES:
                text = text.replace(phrase, "")
            if NO_BEFORE_NOUN.search(text) and path != Path(__file__):
                places.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert places == []
