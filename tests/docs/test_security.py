"""SECURITY.md: each promise names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| promise", "| **"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_promise_names_a_test_that_exists(row):
    match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[2])
    assert match, row
    assert re.search(rf"^def {match[2]}\(", (ROOT / match[1]).read_text("utf-8"), re.MULTILINE)


def test_table_of_promises_is_read():
    assert len(ROWS) > 10
