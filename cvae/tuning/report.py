"""A study as a table, as JSON and as pictures."""

from pathlib import Path
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cvae.plots.style import GREY, OKABE_ITO, save
from cvae.run import WEIGHTS
from cvae.tuning.search_space import Range
from cvae.tuning.study import Study, is_start, outcome, short

BLUE = OKABE_ITO[0]


def summary(study: Study) -> dict[str, Any]:
    """The study for a script: bounds in nats per image, the best trial first."""
    best = study.best
    start = next((t.value for t in study.trials if is_start(t) and t.state == TrialState.COMPLETE), None)
    return {
        "study": study.name,
        "out": str(study.out),
        "first_bound": start,
        "best": best and {**_facts(best), "recipe": str(study.out / "best.toml"), "run": _run(study, best)},
        "trials": [_facts(trial) for trial in study.trials],
    }


def table(study: Study) -> str:
    """The study for a person, the best trial first, and what to do next."""
    names = list(study.space)
    rows = [["trial", "outcome", "bound", "seconds", *names]]
    for trial in study.trials:
        bound = "" if trial.value is None else f"{trial.value:.2f}"
        values = [short(trial.params.get(name, "")) for name in names]
        number = f"{trial.number} (first)" if is_start(trial) else str(trial.number)
        rows.append([number, outcome(trial), bound, str(trial.user_attrs.get("seconds", "")), *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    facts = summary(study)
    if (best := facts["best"]) is not None:
        gain = "" if facts["first_bound"] is None else f", {facts['first_bound'] - best['bound']:.2f} below the first"
        lines += ["", f"best: trial {best['number']}, {best['bound']:.2f} nats per image{gain}"]
        lines += [f"its recipe: cvae train --recipe {best['recipe']}"]
        lines += [f"its run: cvae export onnx {best['run']}" if best["run"] else f"its run is on {best['host']}"]
    return "\n".join(lines)


def plot(study: Study) -> list[Path]:
    """history.png, importances.png and slices.png in the study's folder, as far as there is something to see."""
    done = sorted((t for t in study.trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    if not done:
        return []
    figure = Figure(figsize=(7, 4), layout="constrained")
    _history(figure.subplots(), done)
    paths = [_save(figure, study.out / "history.png")]

    varied = [name for name in study.space if len({t.params.get(name) for t in done}) > 1]
    if varied:
        figure = Figure(figsize=(3 * len(varied), 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(varied), sharey=True, squeeze=False)[0], varied, strict=True):
            _slice(axes, name, study.space[name], done)
        figure.axes[0].set_ylabel("validation bound, nats")
        paths.append(_save(figure, study.out / "slices.png"))
    if len(done) > 3 and varied:
        figure = Figure(figsize=(6, 1 + 0.5 * len(varied)), layout="constrained")
        _importances(figure.subplots(), study.optuna, varied)
        paths.append(_save(figure, study.out / "importances.png"))
    return paths


def _history(axes: Axes, done: list[FrozenTrial]) -> None:
    numbers, bounds = [t.number for t in done], [_bound(t) for t in done]
    axes.plot(numbers, bounds, "o", color=GREY, label="a trial")
    axes.step(numbers, [min(bounds[: i + 1]) for i in range(len(bounds))], where="post", color=BLUE, label="the best")
    axes.set(xlabel="trial", ylabel="validation bound, nats", title="Trials that ran to their end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _slice(axes: Axes, name: str, of: Range | tuple[Any, ...], done: list[FrozenTrial]) -> None:
    with_it = [t for t in done if name in t.params]
    values = [t.params[name] for t in with_it]
    places = values if isinstance(of, Range) else [of.index(value) for value in values]
    order = [t.number for t in with_it]
    axes.scatter(places, [_bound(t) for t in with_it], c=order, cmap="Blues", edgecolors=GREY)  # the later the darker
    if isinstance(of, Range):
        axes.set_xscale("log" if of.log else "linear")
    else:
        axes.set_xticks(range(len(of)), [short(choice) for choice in of])
    axes.set_xlabel(name)


def _importances(axes: Axes, study: optuna.Study, names: list[str]) -> None:
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=names)
    ordered = sorted(found, key=found.__getitem__)
    axes.barh(ordered, [found[name] for name in ordered], color=BLUE)
    axes.set(xlabel="share of the bound's variance", title="What the bound depends on")


def _bound(trial: FrozenTrial) -> float:
    assert trial.value is not None  # it ran to its end
    return trial.value


def _save(figure: Figure, path: Path) -> Path:
    save(figure, path)
    return path


def _facts(trial: FrozenTrial) -> dict[str, Any]:
    attributes = {"seconds": trial.user_attrs.get("seconds"), "error": trial.user_attrs.get("error")}
    host = trial.user_attrs.get("worker", [None])[0]
    return {
        "number": trial.number,
        "outcome": outcome(trial),
        "bound": trial.value,
        "params": trial.params,
        **attributes,
        "host": host,
    }


def _run(study: Study, trial: FrozenTrial) -> str | None:
    folder = study.folder(trial)
    return str(folder) if (folder / WEIGHTS).exists() else None
