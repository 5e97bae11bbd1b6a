"""Untrusted text on a terminal, in CSV files and in Markdown, and writers that must not bypass its cleaning."""

import ast
import csv
import io
import re
from pathlib import Path

import pytest

from cvae.errors import one_line
from cvae.serialization import check_text
from cvae.text import clean_line, clean_lines, csv_cell, describe_character, escape_markdown, find_unsafe

ROOT = Path(__file__).resolve().parents[1]

PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
DEVANAGARI = "क्\u200dष"
SCIENTIST, RAINBOW_FLAG = "\U0001f469\u200d\U0001f52c", "\U0001f3f3\ufe0f\u200d\U0001f308"
KEYCAP = "7\ufe0f\u20e3"
DARK_SCIENTIST = "\U0001f469\U0001f3ff\u200d\U0001f52c"


@pytest.mark.parametrize(
    "text",
    ["cat", "Katze ä", "猫", PERSIAN, DEVANAGARI, SCIENTIST, RAINBOW_FLAG, DARK_SCIENTIST, KEYCAP, "\u2764\ufe0f"],
)
def test_text_of_every_script_is_kept(text):
    assert find_unsafe(text) is None and clean_line(text) == text and one_line(text) == text
    check_text(text)


@pytest.mark.parametrize(
    "text",
    ["a\x1b[31m", "a\rb", "a\nb", "e\u202egnp", "\u2066a", "a\u2028b", "p\udce9", "ad\u200dmin", "a\u200c",
     "\u200d\u0627", "\U0001f469\u200da", "\u200b", "\u3164", "a\u034fb", "cat\U000e0100", "cat\U000e01ef", "\u2800",
     "\uffa0", "cat\ufe0f", "\ufe0f", "cat\ufe01"],
)  # fmt: skip
def test_text_that_controls_a_terminal_or_hides_is_found_and_replaced(text):
    character = find_unsafe(text)
    assert character is not None and character in text and f"U+{ord(character):04X}" in describe_character(character)
    assert find_unsafe(clean_line(text)) is None and len(clean_line(text)) == len(text)
    assert clean_lines(f"a\n{text}").startswith("a\n")
    with pytest.raises(ValueError, match=f"U\\+{ord(character):04X}"):
        check_text(text)


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("x","y").png',
        "@SUM(1).png",
        "-2+3+cmd.png",
        "+1.png",
        " =1",
        "\t=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20SUM(1)",
    ],
)
def test_csv_cell_is_not_a_formula_and_can_be_read(text):
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(text), csv_cell(-1.5)])
    ((cell, number),) = csv.reader(io.StringIO(file.getvalue()))
    assert cell == f"'{clean_line(text)}" and number == "-1.5"


def test_csv_cell_is_one_line():
    assert csv_cell("a\nb\rc\x1b[2J") == "a b c?[2J" and csv_cell("plain name.png") == "plain name.png"


MARKDOWN = {
    "image": "![t](https://example.org/t.png)",
    "link": "[a](https://example.org) <https://example.org>",
    "bare address": "see https://example.org/a and www.example.org or ftp://example.org, me@example.org",
    "HTML": "<img src=https://example.org/u.png> &lt;script&gt;",
    "table": "a | b\n| c |",
    "code": "`x` ``` ~~~",
    "emphasis": "*a* __b__ # c",
}


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN)
def test_markdown_shows_text_as_it_is(text):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    table = f"| a | b |\n|---|---|\n| x | {escape_markdown(text)} |\n"
    tokens = [token for token in parser.parse(table) if token.type == "inline"]
    assert len(tokens) == 4
    inline = tokens[-1].children
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == clean_line(text).strip()


@pytest.mark.parametrize(
    "text",
    ["- a", "+ a", "1. a", "23) a", "---", ":---", "===", "    a", "# a", "> a", "1.5 million", "a - b: 2.", "-1.5"],
)
def test_markdown_of_a_line_is_a_paragraph(text):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    for before in ("", "a\n", "| a |\n"):
        kinds = [token.type for token in parser.parse(f"{before}{escape_markdown(text)}\n")]
        assert kinds == ["paragraph_open", "inline", "paragraph_close"]
    inline = parser.parse(escape_markdown(text))[1].children
    assert "".join(token.content for token in inline) == text.strip()


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN)
def test_markdown_has_no_active_syntax(text):
    escaped = escape_markdown(text)
    for i, character in enumerate(escaped):
        if character in "`*_[]<>|!&@":
            assert escaped[i - 1] == "\\"
    assert not re.search(r"(?<!\\)://|www\.", escaped) and "\n" not in escaped


WRITERS = {
    "cvae/messages.py": "defines `print_message`, and formats warnings",
    "cli/_shared.py": "defines `report`, and prints images as escape sequences",
    "cvae/engine/display.py": "defines `Display`",
}
"""Modules that may print, with the reason. All others use their functions, which clean the text."""


def find_writers(path: Path) -> list[str]:
    """Return the calls in a module that write to the terminal or a CSV file."""
    calls = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    ends = ("stdout.write", "stderr.write", "console.print", "typer.echo", "csv.writer", "csv.DictWriter")
    return [call for call in calls if call == "print" or call.endswith(ends)]


def test_no_module_bypasses_the_cleaning_of_text():
    folders = [ROOT / "cvae", ROOT / "cli", ROOT / "exporters"]
    paths = [path for folder in folders for path in folder.rglob("*.py") if not path.is_relative_to(ROOT / "cvae/cli")]
    writers = {path.relative_to(ROOT).as_posix(): find_writers(path) for path in paths}
    printing = {name: calls for name, calls in writers.items() if calls and name not in WRITERS}
    tables = {"cvae/api/detect.py": ["csv.DictWriter"], "cvae/runtime/image_writers.py": ["csv.writer"]}
    assert printing == tables  # their cells are cleaned by `csv_cell`
    assert all(writers[name] for name in WRITERS)
    assert all("csv_cell(value)" in (ROOT / name).read_text("utf-8") for name in tables)
