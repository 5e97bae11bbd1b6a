"""Reports on a study: a table, a dictionary for JSON, and plots."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cvae.plots.style import GREY, OKABE_ITO, save
from cvae.run import WEIGHTS
from cvae.tuning.search_space import Domain, Range
from cvae.tuning.study import Study, format_value, is_first, outcome

BLUE = OKABE_ITO[0]  # the main colour of the plots


def summary(study: Study) -> dict[str, Any]:
    """Summarize a study for JSON. Bounds are in nats per image, and the best trial comes first."""
    best = study.best
    first_bound = next((t.value for t in study.trials if is_first(t) and t.state == TrialState.COMPLETE), None)
    return {
        "study": study.name,
        "out": str(study.out),
        "first_bound": first_bound,
        "best": best
        and {**_summarize_trial(best), "recipe": str(study.out / "best.toml"), "run": _find_run(study, best)},
        "search": list(study.space),
        "trials": [_summarize_trial(trial) for trial in study.trials],
    }


def table(report: dict[str, Any]) -> str:
    """Format a summary as a table of trials, the best one first, followed by commands that use the best trial."""
    names = report["search"]
    rows = [["trial", "outcome", "bound", "seconds", *names]]
    for trial in report["trials"]:
        bound = "" if trial["bound"] is None else f"{trial['bound']:.2f}"
        seconds = "" if trial["seconds"] is None else str(trial["seconds"])
        values = [format_value(trial["params"].get(name, "")) for name in names]
        rows.append([f"{trial['number']}{' (first)' * trial['first']}", trial["outcome"], bound, seconds, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if (best := report["best"]) is not None:
        first = report["first_bound"]
        gain = "" if first is None else f", {first - best['bound']:.2f} below the first trial"
        lines += ["", f"best: trial {best['number']}, {best['bound']:.2f} nats per image{gain}"]
        lines += [f"train it again: cvae train --recipe {best['recipe']}"]
        lines += [f"export it: cvae export onnx {best['run']}" if best["run"] else f"its run is on {best['host']}"]
    return "\n".join(lines)


def plot(study: Study) -> list[Path]:
    """Save history.png, slices.png and importances.png in the study's folder, and return their paths.

    A plot is skipped if there are too few complete trials for it.
    """
    complete = sorted((t for t in study.trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    if not complete:
        return []
    figure = Figure(figsize=(7, 4), layout="constrained")
    _plot_history(figure.subplots(), complete)
    paths = [_save(figure, study.out / "history.png")]

    names = [name for name in study.space if len({t.params.get(name) for t in complete}) > 1]
    if names:
        figure = Figure(figsize=(3 * len(names), 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
            _plot_slice(axes, name, study.space[name], complete)
        figure.axes[0].set_ylabel("validation bound, nats")
        paths.append(_save(figure, study.out / "slices.png"))
    if len(complete) > 3 and names:
        figure = Figure(figsize=(6, 1 + 0.5 * len(names)), layout="constrained")
        _plot_importances(figure.subplots(), study.optuna, names)
        paths.append(_save(figure, study.out / "importances.png"))
    return paths


def _plot_history(axes: Axes, complete: list[FrozenTrial]) -> None:
    numbers, bounds = [t.number for t in complete], [_get_bound(t) for t in complete]
    axes.plot(numbers, bounds, "o", color=GREY, label="trial")
    axes.step(numbers, np.minimum.accumulate(bounds), where="post", color=BLUE, label="best so far")
    axes.set(xlabel="trial", ylabel="validation bound, nats", title="Complete trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _plot_slice(axes: Axes, name: str, domain: Domain, complete: list[FrozenTrial]) -> None:
    trials = [t for t in complete if name in t.params]
    values = [t.params[name] for t in trials]
    positions = values if isinstance(domain, Range) else [domain.index(value) for value in values]
    order = [t.number for t in trials]
    # Later trials are darker.
    axes.scatter(positions, [_get_bound(t) for t in trials], c=order, cmap="Blues", edgecolors=GREY)
    if isinstance(domain, Range):
        axes.set_xscale("log" if domain.log else "linear")
    else:
        axes.set_xticks(range(len(domain)), [format_value(choice) for choice in domain])
    axes.set_xlabel(name)


def _plot_importances(axes: Axes, study: optuna.Study, names: list[str]) -> None:
    importances = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=names)
    ordered = sorted(importances, key=importances.__getitem__)
    axes.barh(ordered, [importances[name] for name in ordered], color=BLUE)
    axes.set(xlabel="share of the bound's variance", title="Parameter importances")


def _get_bound(trial: FrozenTrial) -> float:
    assert trial.value is not None  # the trial is complete
    return trial.value


def _save(figure: Figure, path: Path) -> Path:
    save(figure, path)
    return path


def _summarize_trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "first": is_first(trial),
        "outcome": outcome(trial),
        "bound": trial.value,
        "params": trial.params,
        "seconds": trial.user_attrs.get("seconds"),
        "error": trial.user_attrs.get("error"),
        "host": trial.user_attrs.get("worker", [None])[0],
    }


def _find_run(study: Study, trial: FrozenTrial) -> str | None:
    folder = study.folder(trial)
    return str(folder) if (folder / WEIGHTS).exists() else None
