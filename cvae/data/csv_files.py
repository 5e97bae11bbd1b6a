"""CSV and TSV files that list images."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from cvae.data.listing import join_names
from cvae.errors import CvaeError, UsageError, count_of, suggest

PATH_COLUMNS = ("file_name", "file", "path", "image")
"""Names of the column of image paths. The first is that of Hugging Face image folders."""

DELIMITERS = ",\t;"
"""Characters that may separate columns."""


class Table(NamedTuple):
    """Content of a table.

    Attributes:
        columns: values of each column, by name.
        lines: line number of each row, for error messages.
    """

    columns: dict[str, list[str]]
    lines: list[int]


def read_csv(path: Path) -> Table:
    """Read a CSV or TSV file.

    Raises:
        UsageError: If it is not a table in UTF-8 with a header, or a row has another number of columns.
        CvaeError: If it can't be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not text in UTF-8; save it as CSV in UTF-8") from error
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    first_line = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda character: len(next(csv.reader([first_line], delimiter=character), [])))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows, lines = [], []
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            if len(row) != len(header):
                raise UsageError(
                    f"line {reader.line_num} of {str(path)!r} has {count_of(len(row), 'column')}, but the header has "
                    f"{len(header)}; quote values that contain {delimiter!r}"
                )
            rows.append([value.strip() for value in row])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {str(path)!r} is not valid CSV: {error}; fix it") from error
    if not rows:
        raise UsageError(f"{str(path)!r} has no rows below its header; list one image per row")
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise UsageError(f"{str(path)!r} has two columns named {repeated[0]!r}; rename one")
    values = {name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True) if name}
    return Table(values, lines)


def find_path_column(path: Path, columns: dict[str, list[str]], name: str | None) -> str:
    """Return the column of image paths.

    Args:
        path: path of the table.
        columns: columns of the table.
        name: name of the column; None for one of `PATH_COLUMNS`.

    Raises:
        UsageError: If there is no such column.
    """
    if name is None:
        for candidate in PATH_COLUMNS:
            if candidate in columns:
                return candidate
        raise UsageError(
            f"{str(path)!r} has no column 'file_name' with the paths of the images; name it with --path-column "
            f"(the columns are {join_names([*columns])})"
        )
    if name not in columns:
        raise UsageError(f"--path-column {name!r}: {str(path)!r} has no such column; {suggest(name, columns)}")
    return name
