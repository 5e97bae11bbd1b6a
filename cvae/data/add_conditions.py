"""Conversion of the columns of a data set to conditions and rows, with the flags --condition and --ignore."""

import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cvae.condition_rows import make_rows
from cvae.conditions import (
    ATTRIBUTES,
    KINDS,
    LABEL,
    MAX_CONDITIONS,
    RESERVED,
    Condition,
    check_name,
    label_condition,
    single_category,
)
from cvae.data.columns import Cells, Values, convert, find_defect, infer_kind, make_condition, read_cells
from cvae.data.dataset import Dataset, list_splits
from cvae.data.listing import join_names
from cvae.errors import UsageError, one_line, suggest
from cvae.serialization import quote

UNIT = re.compile(r"(.*\S)\s*(?:\[([^\[\]]+)\]|\(([^()]+)\))")
"""Pattern of the name of a column with a unit, such as "age [years]"."""

Columns = dict[str, list[Cells]]
"""Cells of each column, or of its K columns if it is an array (N, K)."""


@dataclass(frozen=True)
class ConditionFlag:
    """Value of the flag --condition, which is `NAME[:KIND][=COLUMN[,COLUMN...]]`.

    Attributes:
        text: the value as the user wrote it.
        name: name of the condition.
        kind: kind of the condition, or None if it is inferred.
        columns: names of its columns.
    """

    text: str
    name: str
    kind: str | None
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a value of the flag.

        Raises:
            UsageError: If it does not have this form.
        """
        left, equals, right = text.partition("=")
        name, colon, kind = (part.strip() for part in left.partition(":"))
        kind = ATTRIBUTES if kind == "attribute" else kind
        columns = tuple(column.strip() for column in right.split(",")) if equals else (name,)
        if not name or "" in columns:
            raise UsageError(f"--condition {text!r} is not NAME:KIND or NAME=COLUMN, such as age:number or size=n")
        if colon and kind not in KINDS:
            raise UsageError(f"--condition {text!r}: unknown kind {kind!r}; {suggest(kind, KINDS)}")
        if len(set(columns)) < len(columns):
            raise UsageError(f"--condition {text!r} lists a column twice; list each once")
        if len(columns) > 1 and (kind or ATTRIBUTES) != ATTRIBUTES:
            raise UsageError(f"--condition {text!r}: a {kind} has one column; only attributes can have several")
        check_name(name)
        return cls(text, name, kind or (ATTRIBUTES if len(columns) > 1 else None), columns)


def add_conditions(dataset: Dataset, flags: Sequence[str] = (), ignore: Sequence[str] = ()) -> Dataset:
    """Return the data set with conditions and rows instead of columns.

    The kinds of the conditions, the values of categories and the ranges of numbers are those of the training images.
    The classes of the data set become the category `label`. A column that is of no use, for example because its value
    is always the same, is left out with a note.

    Args:
        dataset: data set, whose splits may have columns.
        flags: values of --condition.
        ignore: columns to leave out.

    Raises:
        UsageError: If a flag does not fit the columns, or a column can't be a condition.
    """
    splits = list_splits(dataset)
    label_arrays = [split.labels for split in splits.values() if split.labels is not None]
    has_unlabelled = any((labels < 0).any() for labels in label_arrays)
    if not has_unlabelled and not any(split.columns for split in splits.values()):
        if flags or ignore:
            flag = f"--condition {flags[0]!r}" if flags else f"--ignore {ignore[0]!r}"
            raise UsageError(f"{flag}: the data set {dataset.name!r} has no columns; remove the flag")
        return dataset
    notes = [*dataset.notes]
    columns = {
        name: {column: read_cells(values, f"column {column!r} of {name}") for column, values in split.columns.items()}
        for name, split in splits.items()
        if split.columns
    }
    for name, cells in columns.items():
        _check_counts(cells, name, len(splits[name]))
    train = columns.get("train", {})
    if extra := {column for cells in columns.values() for column in cells} - train.keys():
        notes.append(f"ignored the columns {join_names(sorted(extra))}, which train does not have")
    known_names = [*train, *[LABEL] * (dataset.classes is not None)]
    for column in ignore:
        if column not in known_names:
            raise UsageError(f"--ignore {column!r}: there is no such column; {suggest(column, known_names)}")
    used = {column: cells for column, cells in train.items() if column not in ignore}
    chosen, chosen_columns = _choose(used, [ConditionFlag.parse(flag) for flag in flags], notes)
    labels = () if LABEL in ignore else label_condition(dataset.classes)
    is_optional = dataset.train.labels is None or bool((dataset.train.labels < 0).any())
    labels = tuple(replace(condition, optional=is_optional) for condition in labels)
    conditions = (*labels, *chosen)
    _check(conditions)
    converted = {}
    for name, split in splits.items():
        values: dict[str, Values] = {}
        for condition in labels:
            indices = np.full(len(split), -1) if split.labels is None else split.labels
            values[condition.name] = indices.clip(min=0), indices >= 0
        for condition in chosen:
            gathered = _gather(columns.get(name, {}), chosen_columns[condition.name], train, len(split))
            values[condition.name], problems = convert(condition, gathered, name)
            notes += problems
        known = np.stack([values[condition.name][1] for condition in conditions], axis=1)
        converted[name] = make_rows(conditions, {key: value for key, (value, _) in values.items()}, known)
    return _finish(replace(dataset, notes=notes), conditions, converted)


def _finish(dataset: Dataset, conditions: tuple[Condition, ...], rows: Mapping[str, np.ndarray]) -> Dataset:
    """Return the data set with conditions and rows, and with labels if a category with known values is all it has."""
    category = single_category(conditions)
    has_labels = category is not None and all((split < len(category.values)).all() for split in rows.values())
    splits: dict[str, Any] = {
        name: replace(split, rows=rows[name], labels=rows[name] if has_labels else None, columns=None)
        for name, split in list_splits(dataset).items()
    }
    classes = category.values if category and has_labels else None
    return replace(dataset, conditions=conditions, classes=classes, **splits)


def _choose(
    columns: Columns, flags: Sequence[ConditionFlag], notes: list[str]
) -> tuple[list[Condition], dict[str, tuple[str, ...]]]:
    """Return the conditions, and the columns of each by its name. Append notes about columns that are left out."""
    conditions: dict[str, Condition] = {}
    used: dict[str, tuple[str, ...]] = {}
    flag_of_column: dict[str, str] = {}
    for flag in flags:
        names = tuple(_find(column, columns, flag) for column in flag.columns)
        for name in names:
            if name in flag_of_column:
                raise UsageError(f"--condition {flag.text!r}: the column {name!r} is also in {flag_of_column[name]!r}")
            flag_of_column[name] = flag.text
        if flag.name in conditions:
            raise UsageError(f"--condition {flag.text!r}: there are two conditions with this name; rename one")
        unit = _split_unit(names[0])[1]
        conditions[flag.name] = _make(flag.name, flag.kind, {name: columns[name] for name in names}, unit, flag)
        used[flag.name] = names
    for column, parts in columns.items():
        if column in flag_of_column:
            continue
        kind = ATTRIBUTES if len(parts) > 1 else infer_kind(parts[0])
        if len(parts) == 1 and (defect := find_defect(parts[0], kind)):
            notes.append(f"left out the column {quote(column)}, because {defect}")
            continue
        name, unit = _make_name(column, kind)
        if name in conditions:
            raise UsageError(
                f"the column {column!r} would be a second condition {name!r}; rename it, with --condition "
                f"'NEW_NAME={column}', or leave it out, with --ignore {column!r}"
            )
        if name != _split_unit(column)[0]:
            notes.append(f"the column {quote(column)} is the condition {name}")
        conditions[name] = _make(name, kind, {column: parts}, unit)
        used[name] = (column,)
    ordered = sorted(conditions.values(), key=lambda condition: [*columns].index(used[condition.name][0]))
    return ordered, used


def _make(
    name: str, kind: str | None, columns: Columns, unit: str | None, flag: ConditionFlag | None = None
) -> Condition:
    cells: dict[str, Cells] = {}
    for column, parts in columns.items():
        label = name if len(columns) == 1 else column
        cells |= {label: parts[0]} if len(parts) == 1 else {f"{label}_{i}": part for i, part in enumerate(parts)}
    first = next(iter(cells.values()))
    kind = kind or (ATTRIBUTES if len(cells) > 1 else infer_kind(first))
    if len(cells) > 1 and kind != ATTRIBUTES:
        raise UsageError(f"the condition {name!r} has {len(cells)} columns, so it must be attributes, not a {kind}")
    if flag is not None and len(cells) == 1 and (defect := find_defect(first, kind)) and "own text" not in defect:
        raise UsageError(f"--condition {flag.text!r}: the column is not a {kind}, because {defect}; choose another")
    return make_condition(name, kind, cells, unit)


def _find(column: str, columns: Columns, flag: ConditionFlag) -> str:
    """Return the name of a column, which may also be written as the name of the condition that it would be."""
    if column in columns:
        return column
    matches = [name for name in columns if _to_identifier(_split_unit(name)[0]) == column]
    if len(matches) != 1:
        raise UsageError(f"--condition {flag.text!r}: there is no column {column!r}; {suggest(column, columns)}")
    return matches[0]


def _make_name(column: str, kind: str) -> tuple[str, str | None]:
    """Return the name of the condition that a column becomes, and the unit of a number."""
    base, unit = _split_unit(column)
    name = _to_identifier(base)
    if name in RESERVED:
        raise UsageError(
            f"the column {column!r} can't be a condition named {name!r}, which is an argument of generate and other "
            f"functions; rename it, with --condition 'NEW_NAME={column}', or leave it out, with --ignore {column!r}"
        )
    return name, unit


def _split_unit(column: str) -> tuple[str, str | None]:
    match = UNIT.fullmatch(column)
    return (match[1], (match[2] or match[3]).strip() or None) if match else (column, None)


def _to_identifier(name: str) -> str:
    identifier = re.sub(r"\W+", "_", name).strip("_") if not name.isidentifier() else name
    if not identifier.isidentifier():
        identifier = f"_{identifier}"
    return f"{identifier}_" if keyword.iskeyword(identifier) else identifier


def _gather(columns: Columns, names: Sequence[str], train: Columns, count: int) -> list[Cells]:
    """Return the cells of some columns in a split. They are blank in a split without the column."""
    cells = []
    for name in names:
        parts = columns.get(name, [[""] * count] * len(train[name]))
        if len(parts) != len(train[name]):
            raise UsageError(f"{name!r} has {len(parts)} columns, but {len(train[name])} in train; make them the same")
        cells += parts
    return cells


def _check_counts(columns: Columns, split: str, count: int) -> None:
    for name, parts in columns.items():
        if len(parts[0]) != count:
            raise UsageError(
                f"{name!r} has {len(parts[0]):,} values for {count:,} images of {split}; give one value for each image"
            )


def _check(conditions: Sequence[Condition]) -> None:
    """Check the number and the names of conditions.

    Raises:
        UsageError: If there are none or too many, or two have the same name.
    """
    names = [condition.name for condition in conditions]
    if not conditions:
        raise UsageError("no column is left that can be a condition; use another --data, or fewer --ignore")
    if len(names) > MAX_CONDITIONS:
        raise UsageError(
            f"there are {len(names)} conditions, more than {MAX_CONDITIONS}; join columns, with --condition "
            f"{one_line(f'traits:attributes={names[0]},{names[1]}', 80)!r}, or leave some out, with --ignore"
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(
            f"two conditions have the name {repeated[0]!r}; rename one, with --condition NEW_NAME={repeated[0]}"
        )
