"""Training curves: the bound and its two terms per epoch, from metrics.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cvae.errors import CvaeError, UsageError
from cvae.plots.style import GREY, PETROFF, Figure, colours, escape_math
from cvae.run import METRICS, read_metrics
from cvae.run import saved_epoch as saved_record

TERMS = {"bound": "bound = distortion + rate", "distortion": "distortion", "rate": "rate"}
"""Panel titles, by key in a record of the metrics."""

STYLES: dict[str, dict[str, Any]] = {
    "train": {"linestyle": (0, (3, 1.5)), "alpha": 0.55, "linewidth": 1.4},
    "validation": {"linestyle": "-", "linewidth": 1.8},
    "test": {"linestyle": "none", "marker": "D", "markersize": 7, "markeredgecolor": "white", "zorder": 4},
}

Records = list[dict[str, Any]]


def read_history(run: Path) -> Records:
    """Read the metrics of a run: one record per epoch and, if the run is complete, a last record for the test images.

    Raises:
        CvaeError: If the file does not exist, is damaged, or has no complete epoch yet.
    """
    path, records = run / METRICS, read_metrics(run)
    for number, record in enumerate(records, 1):
        try:
            _check(record)
        except (ValueError, KeyError, TypeError) as error:
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is not a training record") from error
    if not any("epoch" in record for record in records):
        raise CvaeError(f"{str(path)!r} has no epochs; train the run for at least one epoch")
    return records


def _check(record: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError if `record` is not valid."""
    numbers = [record[split][term] for split in STYLES if split in record for term in TERMS]
    others = record.get("epoch", 0), record.get("validation", {}).get("importance_weighted", 0)
    if not numbers or not all(isinstance(number, int | float) for number in (*numbers, *others)):
        raise ValueError


def curve(records: Records, split: str, term: str) -> tuple[list[int], list[float]]:
    """Return the epochs and values of one curve. The test curve is a single point at the epoch of the saved weights."""
    saved = saved_epoch(records)
    points = [(record.get("epoch", saved), record[split][term]) for record in records if split in record]
    return [epoch for epoch, _ in points], [value for _, value in points]


def saved_epoch(records: Records) -> int:
    """Return the epoch of the saved weights: the one with the lowest validation bound, or else the last one."""
    return saved_record(records)["epoch"]


def draw(runs: Mapping[str, Records]) -> Figure:
    """Draw bound, distortion and rate per epoch, in nats per image, with one colour per run.

    Raises:
        UsageError: If there are more runs than colours.
    """
    if len(runs) > len(PETROFF):
        raise UsageError(
            f"can't plot {len(runs)} runs: at most {len(PETROFF)} colours can be told apart; pass fewer runs"
        )
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    for axes, term in zip(figure.subplots(1, 3), TERMS, strict=True):
        _plot_panel(axes, runs, term)
    figure.axes[0].set_ylabel("nats per image")
    splits = [split for split in STYLES if any(split in record for records in runs.values() for record in records)]
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in colours(len(runs))]
    handles += [Line2D([], [], color=GREY, **STYLES[split]) for split in splits]
    figure.legend(handles, [*map(escape_math, runs), *splits], loc="outside lower center", ncols=6, frameon=False)
    return figure


def _plot_panel(axes: Axes, runs: Mapping[str, Records], term: str) -> None:
    curves: list[list[float]] = []
    for records, colour in zip(runs.values(), colours(len(runs)), strict=True):
        for split, style in STYLES.items():
            epochs, values = curve(records, split, term)
            marker = "o" if len(epochs) == 1 and split != "test" else None  # a line of one point is invisible
            axes.plot(epochs, values, **{"marker": marker, "color": colour, **style})
            curves.append(values)
    axes.set(xlabel="epoch", title=TERMS[term])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _zoom(axes, curves)


def _zoom(axes: Axes, curves: list[list[float]]) -> None:
    """Fit the y axis to the epochs after the first tenth, and add a note on the range of the values that are cut off.

    Values in the first epochs are often so large that the rest of a curve would look flat.
    """
    values = np.array([value for curve in curves for value in curve])
    later = np.array([value for curve in curves for value in curve[len(curve) // 10 :]])
    values, later = values[np.isfinite(values)], later[np.isfinite(later)]
    if not len(later):
        return
    margin = 0.06 * np.ptp(later) or 1.0
    low, high = later.min() - margin, later.max() + margin
    axes.set_ylim(low, high)
    note: dict[str, Any] = {"color": GREY, "fontsize": 9, "ha": "right", "transform": axes.transAxes}
    note["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
    if values.max() > high:
        axes.text(0.98, 0.97, f"first epochs above, up to {values.max():.1f}", va="top", **note)
    if values.min() < low:
        axes.text(0.98, 0.03, f"first epochs below, down to {values.min():.1f}", va="bottom", **note)
