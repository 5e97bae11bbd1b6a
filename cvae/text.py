"""Text from files and file names, made safe for the places where it is shown. Does not import torch.

Such text may be untrusted. Each place has one function: a terminal (`clean_line`, `clean_lines`), a cell of a CSV file
(`csv_cell`) and Markdown (`escape_markdown`).
"""

import re
import unicodedata

CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that are not shown: control, format (such as text direction), surrogate, line
separator and paragraph separator."""

ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER, EMOJI_PRESENTATION = "\u200c", "\u200d", "\ufe0f"

JOINED_LETTERS = {"Lo", "Lm", "Mn", "Mc"}
"""Categories of letters and marks in scripts without capitals, such as Arabic and Devanagari, which use joiners."""

EMOJI = {"So", "Sm", "Sk"}
"""Categories of emoji and skin tones."""

FORMULA_START = ("=", "+", "-", "@")
"""Characters with which a spreadsheet's formula begins."""


def find_unsafe(text: str) -> str | None:
    """Return the first character that controls a terminal, or reorders or hides text, or None if there is none.

    Joiners are letters of many scripts, and parts of emoji. Elsewhere they are invisible.
    """
    if text.isprintable():
        return None
    for i, character in enumerate(text):
        if unicodedata.category(character) in CONTROL_CATEGORIES and not _is_joiner(text, i):
            return character
    return None


def describe_character(character: str) -> str:
    """Describe a character that can't be shown, such as "U+202E (RIGHT-TO-LEFT OVERRIDE)"."""
    name = unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"


def clean_line(text: str) -> str:
    """Return text as one line: line breaks become spaces, and other characters that can't be shown become "?"."""
    if text.isprintable():
        return text
    return "".join(
        " " if character.isspace() else character if character.isprintable() or _is_joiner(text, i) else "?"
        for i, character in enumerate(text)
    )


def clean_lines(text: str) -> str:
    """Return text whose lines are cleaned like `clean_line`. The parts of a line must be cleaned before."""
    return "\n".join(map(clean_line, text.split("\n")))


def csv_cell(value: object) -> object:
    """Return the value of a cell of a CSV file: a text is one line, and not a formula for a spreadsheet."""
    if not isinstance(value, str):
        return value
    line = clean_line(value)
    return f"'{line}" if line.lstrip().startswith(FORMULA_START) else line


def escape_markdown(text: str) -> str:
    """Return one line of Markdown that shows `text` as it is, without links, images, HTML or table cells."""
    line = re.sub(r"([\\`*_{}\[\]<>|!#~&@$])", r"\\\1", clean_line(text))
    return re.sub(r"(?<=\w):(?=//)|(?<=\bwww)\.", lambda match: "\\" + match[0], line, flags=re.IGNORECASE)


def _is_joiner(text: str, index: int) -> bool:
    """Return whether the character at an index is a joiner between two letters that can join, or within an emoji."""
    if text[index] not in (ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER) or not 0 < index < len(text) - 1:
        return False
    before, after = text[index - 1], text[index + 1]
    categories = unicodedata.category(before), unicodedata.category(after)
    if text[index] == ZERO_WIDTH_JOINER and categories[1] in EMOJI:
        return categories[0] in EMOJI or before == EMOJI_PRESENTATION
    return JOINED_LETTERS.issuperset(categories) and before != EMOJI_PRESENTATION
