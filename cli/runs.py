"""The command `cvae runs`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.atomic import expand_user
from cvae.cli import _shared
from cvae.config import TrainConfig, flag
from cvae.errors import one_line
from cvae.flags import flags_of
from cvae.run import RUNS, compare_runs, read_config


def runs(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the runs.")] = RUNS,
    json: _shared.Json = False,
) -> None:
    """List the runs under runs/, newest first, with their bounds.

    A run has two bounds: the best bound on the validation images, and the bound on the test images. Both are in nats
    per image; lower is better. The last column shows the flags that differ between the runs, except those at their
    defaults.

    Examples:
      cvae runs
      cvae runs experiments --json
    """
    from cvae.api.run import runs as list_runs

    rows = compare_runs([run.path for run in list_runs(folder)])
    if not rows:
        _shared.echo(f"there is no run under {str(folder)!r}; train one with: cvae train")
    if rows or json:
        _shared.report(json, {"runs": rows}, format_table(rows))


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format the results of `compare_runs` as a table."""
    header = ("run", "validation", "test", "epochs", "time", "flags that differ")
    cells = [header, *(_format_row(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers, flags in cells:
        columns = [f"{text:>{width}}" for text, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([f"{name:{widths[0]}}", *columns, flags]).rstrip())
    unfinished = [row["run"] for row in rows if not row["finished"] and row["error"] is None]
    if unfinished:
        folder = shlex.quote(one_line(unfinished[0]))
        lines.append(f"* not finished; resume it with: cvae train --resume --out {folder}")
    return "\n".join(lines)


def _format_row(row: dict[str, Any]) -> tuple[str, ...]:
    from cvae.messages import format_nats, format_seconds

    name = one_line(Path(row["run"]).name, 60)
    if row["error"] is not None:
        return name, "-", "-", "-", "-", one_line(row["error"], 120)
    bounds = ["-" if row[key] is None else format_nats(row[key]) for key in ("validation", "test")]
    epochs = f"{row['epochs']}"
    if not row["finished"]:
        epochs += " *" if row["total_epochs"] is None else f"/{row['total_epochs']} *"  # None: it has a time budget
    defaults = {flag(name): getattr(TrainConfig(), name) for name in flags_of(TrainConfig)}
    flags = [_format_flag(*item) for item in row["flags"].items() if defaults.get(item[0], ...) != item[1]]
    if contents := _describe_arrays(row):
        flags = [f"{text} ({contents})" if text.startswith("--data ") else text for text in flags]
    return name, *bounds, epochs, format_seconds(row["seconds"]), one_line(" ".join(flags), 200)


def _describe_arrays(row: dict[str, Any]) -> str | None:
    """Describe the arrays that a run was trained on, because its --data flag contains only their hash."""
    data = row["flags"].get("--data", "")
    if not data.startswith("arrays:"):
        return None
    from cvae.data.array_store import describe

    data_dir = read_config(Path(row["run"])).training.data_dir
    return describe(data, None if data_dir is None else expand_user(data_dir))


def _format_flag(spelling: str, value: Any) -> str:
    """Format a flag as on the command line."""
    if isinstance(value, bool) and " " not in spelling:
        return spelling if value else f"--no-{spelling[2:]}"
    if isinstance(value, tuple):
        return " ".join(_format_flag(spelling, item) for item in value)
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{spelling}{'=' if ' ' in spelling else ' '}{shlex.quote(text)}"
