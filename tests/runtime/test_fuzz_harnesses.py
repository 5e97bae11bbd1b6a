"""Harnesses of the fuzzers: seeds and a few random mutations. `make fuzz` runs them for minutes, guided by coverage."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest

from cvae.errors import CvaeError

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
TARGETS = ["config", "detector", "image", "onnx", "spec", "weights"]


@pytest.fixture(scope="module")
def harnesses() -> Any:
    sys.path.insert(0, str(FUZZ))
    try:
        import harnesses
    finally:
        sys.path.remove(str(FUZZ))
    return harnesses


def test_every_harness_is_tested_and_run_by_make(harnesses):
    makefile = (FUZZ.parent / "Makefile").read_text("utf-8")
    assert sorted(harnesses.TARGETS) == TARGETS and f"HARNESSES := {' '.join(TARGETS)}\n" in makefile


@pytest.mark.parametrize("target", TARGETS)
def test_reader_accepts_a_seed(harnesses, target):
    """Otherwise, no mutation would get beyond the first checks."""
    harnesses.prepare(target)
    accepted = 0
    for path in (FUZZ / "seeds" / target).iterdir():
        with contextlib.suppress(CvaeError):
            harnesses.TARGETS[target](path.read_bytes())
            accepted += 1
    assert accepted > 0


@pytest.mark.parametrize("target", TARGETS)
def test_reader_accepts_or_rejects_mutations(harnesses, target):
    harnesses.prepare(target)
    harnesses.mutate_at_random(target, 200)


def test_harness_reports_a_reader_that_raises_or_takes_too_long(harnesses, monkeypatch):
    def fail(data: bytes) -> None:
        raise KeyError("x")

    monkeypatch.setitem(harnesses.TARGETS, "spec", fail)
    with pytest.raises(KeyError):
        harnesses.check("spec", b"")
    monkeypatch.setitem(harnesses.TARGETS, "spec", lambda data: None)
    monkeypatch.setattr(harnesses, "MAX_SECONDS", -1)
    with pytest.raises(AssertionError, match="takes"):
        harnesses.check("spec", b"")
