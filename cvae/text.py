"""Text from files and file names, made safe for the places where it is shown. Does not import torch.

Such text may be untrusted. Each place has one function: a terminal (`clean_line`, `clean_lines`), a cell of a CSV file
(`csv_cell`) and Markdown (`escape_markdown`).
"""

import re
import unicodedata

CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that are not shown: control, format (such as text direction), surrogate, line
separator and paragraph separator."""

INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters in other categories that are not shown: fillers, variation selectors, and the blank Braille pattern."""

ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER = "\u200c", "\u200d"

TEXT_PRESENTATION, EMOJI_PRESENTATION = "\ufe0e", "\ufe0f"
"""Variation selectors that choose between the black and the coloured form of an emoji."""

JOINED_LETTERS = {"Lo", "Lm", "Mn", "Mc"}
"""Categories of letters and marks in scripts without capitals, such as Arabic and Devanagari, which use joiners."""

EMOJI = {"So", "Sm", "Sk"}
"""Categories of emoji and skin tones."""

OTHER_EMOJI = "0123456789#*\u203c\u2049\u2139\u3030"
"""Characters of other categories that have the form of an emoji."""

FORMULA_START = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters with which a spreadsheet's formula begins."""


def find_unsafe(text: str) -> str | None:
    """Return the first character that controls a terminal, or reorders or hides text, or None if there is none.

    Joiners are letters of many scripts, and parts of emoji. Elsewhere they are invisible.
    """
    if _is_plain(text):
        return None
    for i, character in enumerate(text):
        is_hidden = unicodedata.category(character) in CONTROL_CATEGORIES or INVISIBLE.match(character)
        if is_hidden and not _is_joiner(text, i) and not _is_presentation(text, i):
            return character
    return None


def describe_character(character: str) -> str:
    """Describe a character that can't be shown, such as "U+202E (RIGHT-TO-LEFT OVERRIDE)"."""
    name = unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"


def clean_line(text: str) -> str:
    """Return text as one line: line breaks become spaces, and other characters that can't be shown become "?"."""
    if _is_plain(text):
        return text
    return "".join(
        " " if character.isspace() else character if _is_shown(text, i) else "?" for i, character in enumerate(text)
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
    line = re.sub(r"([\\`*_{}\[\]<>|!#~&@$])", r"\\\1", clean_line(text).strip())
    # A list, or a line below a heading or the head of a table. A number such as -1.5 is neither.
    line = re.sub(r"^(\d*)([-+:=.)])(?!\d)", r"\1\\\2", line)
    return re.sub(r"(?<=\w):(?=//)|(?<=\bwww)\.", lambda match: "\\" + match[0], line, flags=re.IGNORECASE)


def _is_plain(text: str) -> bool:
    """Return whether each character of a text is shown, whatever the others are."""
    return text.isprintable() and not INVISIBLE.search(text)


def _is_shown(text: str, index: int) -> bool:
    character = text[index]
    if INVISIBLE.match(character):
        return _is_presentation(text, index)
    return character.isprintable() or _is_joiner(text, index)


def _is_presentation(text: str, index: int) -> bool:
    """Return whether the character at an index chooses the form of the emoji before it."""
    if text[index] not in (TEXT_PRESENTATION, EMOJI_PRESENTATION) or index == 0:
        return False
    return unicodedata.category(text[index - 1]) in EMOJI or text[index - 1] in OTHER_EMOJI


def _is_joiner(text: str, index: int) -> bool:
    """Return whether the character at an index is a joiner between two letters that can join, or within an emoji."""
    if text[index] not in (ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER) or not 0 < index < len(text) - 1:
        return False
    before, after = text[index - 1], text[index + 1]
    categories = unicodedata.category(before), unicodedata.category(after)
    if text[index] == ZERO_WIDTH_JOINER and categories[1] in EMOJI:
        return categories[0] in EMOJI or before == EMOJI_PRESENTATION
    return JOINED_LETTERS.issuperset(categories) and before != EMOJI_PRESENTATION
