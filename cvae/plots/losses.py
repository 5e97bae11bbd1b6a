"""The curves of trainings: the bound and its two parts, from metrics.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cvae.errors import CvaeError, UsageError
from cvae.plots.style import GREY, PETROFF, colours, plain
from cvae.run import METRICS, read_metrics

TERMS = {"bound": "bound = distortion + rate", "distortion": "distortion", "rate": "rate"}

STYLES: dict[str, dict[str, Any]] = {
    "train": {"linestyle": (0, (3, 1.5)), "alpha": 0.55, "linewidth": 1.4},
    "validation": {"linestyle": "-", "linewidth": 1.8},
    "test": {"linestyle": "none", "marker": "D", "markersize": 7, "markeredgecolor": "white", "zorder": 4},
}

Records = list[dict[str, Any]]


def read(run: Path) -> Records:
    """What a run has recorded: a line an epoch, and one of the test images at its end.

    Raises:
        CvaeError: there is no such file, it is damaged, or the first epoch has not ended yet.
    """
    path, records = run / METRICS, read_metrics(run)
    for number, record in enumerate(records, 1):
        try:
            _check(record)
        except (ValueError, KeyError, TypeError) as error:
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is no record of a training") from error
    if not any("epoch" in record for record in records):
        raise CvaeError(f"{str(path)!r} holds no epoch; let the run train for one at least")
    return records


def _check(record: dict[str, Any]) -> None:
    """Raise one of several errors if it is not a record."""
    numbers = [record[split][term] for split in STYLES if split in record for term in TERMS]
    if not numbers or not all(isinstance(number, int | float) for number in (*numbers, record.get("epoch", 0))):
        raise ValueError


def curve(records: Records, split: str, term: str) -> tuple[list[int], list[float]]:
    """Epochs and values of one line; that of the test images is a point at the last epoch."""
    last = max(record.get("epoch", 0) for record in records)
    found = [(record.get("epoch", last), record[split][term]) for record in records if split in record]
    return [epoch for epoch, _ in found], [value for _, value in found]


def draw(runs: Mapping[str, Records]) -> Figure:
    """Bound, distortion and rate by epoch, in nats per image: a colour a run.

    Raises:
        UsageError: there are more runs than colours.
    """
    if len(runs) > len(PETROFF):
        raise UsageError(f"{len(runs)} runs: at most {len(PETROFF)} can be told apart in one figure; name fewer")
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    for axes, term in zip(figure.subplots(1, 3), TERMS, strict=True):
        _panel(axes, runs, term)
    figure.axes[0].set_ylabel("nats per image")
    used = [split for split in STYLES if any(split in record for records in runs.values() for record in records)]
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in colours(len(runs))]
    handles += [Line2D([], [], color=GREY, **STYLES[split]) for split in used]
    figure.legend(handles, [*map(plain, runs), *used], loc="outside lower center", ncols=6, frameon=False)
    return figure


def _panel(axes: Axes, runs: Mapping[str, Records], term: str) -> None:
    lines: list[list[float]] = []
    for records, colour in zip(runs.values(), colours(len(runs)), strict=True):
        for split, style in STYLES.items():
            epochs, values = curve(records, split, term)
            dots = "o" if len(epochs) == 1 and split != "test" else None  # a line of one epoch is not seen
            axes.plot(epochs, values, **{"marker": dots, "color": colour, **style})
            lines.append(values)
    axes.set(xlabel="epoch", title=TERMS[term])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _zoom(axes, lines)


def _zoom(axes: Axes, lines: list[list[float]]) -> None:
    """Leave the first tenth of the epochs out of the choice of limits, for they would flatten the rest, and say so."""
    every = np.array([value for line in lines for value in line])
    settled = np.array([value for line in lines for value in line[len(line) // 10 :]])
    every, settled = every[np.isfinite(every)], settled[np.isfinite(settled)]
    if not len(settled):
        return
    margin = 0.06 * np.ptp(settled) or 1.0
    low, high = settled.min() - margin, settled.max() + margin
    axes.set_ylim(low, high)
    said: dict[str, Any] = {"color": GREY, "fontsize": 9, "ha": "right", "transform": axes.transAxes}
    said["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
    if every.max() > high:
        axes.text(0.98, 0.97, f"first epochs above, up to {every.max():.1f}", va="top", **said)
    if every.min() < low:
        axes.text(0.98, 0.03, f"first epochs below, down to {every.min():.1f}", va="bottom", **said)
