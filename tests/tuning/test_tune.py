"""Hyperparameter search: the search space, the first and the best trial, and resumed studies."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cvae.__main__ import main
from cvae.cli.train import train as train_command
from cvae.cli.tune import tune as tune_command
from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.engine.resolve import configure
from cvae.errors import CvaeError, Interrupted, UsageError, install_command
from cvae.recipes import read_recipe
from cvae.serialization import from_dict, to_dict
from cvae.tuning import search_space
from cvae.tuning import study as study_module
from cvae.tuning.search_space import Range, apply_params, default_space, make_space, parse_search, to_recipe
from cvae.tuning.study import Study

BASE = TrainConfig(seed=0, arch="mlp", limit=200, epochs=4, options={"arch": {"hidden": [16]}}, trackers=("none",))
SPACE = {"lr": Range(1e-4, 1e-2, log=True), "latent_dim": (4, 8, 32)}


# -- the search space --------------------------------------------------------------------------------------------------


def test_flags_and_recipe_give_the_same_search_space(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'arch = "mlp"\n[search]\nlr = {low = 1e-4, high = 1e-2, log = true}\nbatch-size = [32, 64]\n'
        'kl_warmup = {low = 0, high = 10}\nlatent_dim = {low = 2, high = 8}\nschedule = ["cosine", "step"]\n'
        '"arch.hidden" = [[200], [200, 100]]\n'
    )
    flags = ["lr=1e-4..1e-2:log", "batch-size=32,64", "kl_warmup=0..10", "latent_dim=2..8", "schedule=cosine,step"]
    flags.append("arch.hidden=[200],[200,100]")
    assert make_space(parse_search(flags)) == make_space(search_space.read_search(recipe))
    assert make_space(parse_search(flags)) == {
        "lr": Range(1e-4, 1e-2, log=True),
        "batch_size": (32, 64),
        "kl_warmup": Range(0, 10),
        "latent_dim": Range(2, 8, whole=True),
        "schedule": ("cosine", "step"),
        "arch.hidden": ("[200]", "[200, 100]"),
    }
    assert read_recipe(recipe) == {"arch": "mlp"}  # cvae train ignores the [search] table


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("lr", ["'lr'", "NAME=LOW..HIGH"]),
        ("lr=", ["'lr='", "NAME=LOW..HIGH"]),
        ("lrr=1,2", ["'lrr'", "'lr'"]),
        ("arc.width=1,2", ["'arc.width'"]),
        ("options=1,2", ["'options'"]),
        ("lr=2..1", ["2.0", "1.0", "empty"]),
        ("lr=0..1:log", ["0.0", "log"]),
        ("lr=a..b", ["lr", "a..b"]),
        ("seed=1,2", ["--seed"]),
        ("data=mnist,kmnist", ["--data"]),
        ("device=cpu,cuda", ["--device"]),
    ],
)
def test_invalid_search_is_rejected(assignment, words):
    with pytest.raises(UsageError) as caught:
        space = make_space(parse_search([assignment]))
        apply_params(TrainConfig(), {name: choices[0] for name, choices in space.items() if isinstance(choices, tuple)})
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("table", [{"low": 1}, {"low": 1, "high": "2"}, {"low": 1, "high": 2, "step": 1}, [], 3])
def test_invalid_range_table_is_rejected(table):
    with pytest.raises(UsageError, match="lr"):
        make_space({"lr": table})


def test_losses_are_rejected_because_trials_are_compared_by_the_bound(tmp_path):
    config = replace(BASE, losses=("adversarial",))
    with pytest.raises(UsageError, match="cvae tune looks for the best bound, which --loss adversarial makes worse"):
        Study(config, SPACE, name="s", out=tmp_path)


def test_values_set_by_flags_are_not_varied():
    assert "lr" not in default_space(BASE, {"lr"}) and "lr" in default_space(BASE, {"arch"})
    space = default_space(replace(BASE, latent_dim=24, lr=0.5), {"arch"})
    assert 24 in space["latent_dim"] and 0.5 in space["lr"]


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        BASE,
        TrainConfig(data='folder:Überraschung "🎲"\\x', conditional=True, lr=1e-5, compile=False, size=32, clip=0.0),
        TrainConfig(options={"arch": {"hidden": [3, 4]}, "likelihood": {"sigma": 0.1}}, trackers=("wandb", "mlflow")),
    ],
)
def test_recipe_contains_the_full_config(tmp_path, config):
    (tmp_path / "r.toml").write_text(to_recipe(config), "utf-8")
    assert from_dict(TrainConfig, read_recipe(tmp_path / "r.toml")) == config


# -- a real study ------------------------------------------------------------------------------------------------------

QUICK_TUNE = ["tune", "--arch", "mlp", "--set", "arch.hidden=[32]", "--epochs", "3", "--tracker", "none"]
QUICK_TUNE += [
    "--lr",
    "1e-3",
    "--limit",
    "600",
    "--search",
    "lr=1e-3..2e-2:log",
    "--search",
    "batch_size=16,32",
    "--study",
    "quick",
]


def cvae(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Run a study of four trials, and return its folder."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("study")
    os.chdir(folder)
    try:
        assert cvae(*QUICK_TUNE, "--trials", "4") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def report(study, monkeypatch, capsys) -> dict[str, Any]:
    """Repeat the command, which has nothing left to do, and return its report."""
    monkeypatch.chdir(study)
    capsys.readouterr()
    assert cvae(*QUICK_TUNE, "--trials", "4", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_study_improves_on_its_first_trial(report):
    trials = {trial["number"]: trial for trial in report["trials"]}
    assert sorted(trials) == [0, 1, 2, 3] and trials[0]["params"] == {"lr": 1e-3, "batch_size": 32}
    assert trials[0]["bound"] == report["first_bound"] > report["best"]["bound"] + 1
    bounds = [trial["bound"] for trial in report["trials"]]
    assert bounds == sorted(bounds) and report["best"]["bound"] == bounds[0]


def test_only_the_best_run_remains_and_has_a_recipe(report):
    runs = [path for path in Path("studies/quick").iterdir() if path.is_dir()]
    assert [str(run) for run in runs] == [report["best"]["run"]]
    config = from_dict(TrainConfig, read_recipe(report["best"]["recipe"]))
    assert (config.lr, config.batch_size) == (report["best"]["params"]["lr"], report["best"]["params"]["batch_size"])
    trained = Config.read(runs[0] / "config.json").training
    expected = replace(trained, precision=config.precision, compile=config.compile)
    assert to_dict(configure(config, load_dataset(config)).training) == to_dict(expected)
    records = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert report["best"]["bound"] == min(r["validation"]["bound"] for r in records if "validation" in r)


def test_recipe_reproduces_the_best_trial(report, tmp_path):
    assert cvae("train", "--no-export", "--recipe", report["best"]["recipe"], "--out", str(tmp_path / "run")) == 0
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (Path(report["best"]["run"]) / "model.safetensors").read_bytes()


def test_plots_of_the_study_are_not_blank(report):
    assert [Path(path).name for path in report["pictures"]] == ["history.png", "slices.png", "importances.png"]
    for path in report["pictures"]:
        with Image.open(path) as image:
            assert image.width > 400 and np.asarray(image.convert("L")).std() > 10


def test_table_lists_trials_and_suggests_next_commands(study, monkeypatch, capsys, report):
    assert cvae(*QUICK_TUNE, "--trials", "2") == 0  # fewer trials than exist
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "outcome", "bound", "seconds", "lr", "batch_size"]
    assert lines[1].split()[:2] == [str(report["best"]["number"]), "complete"] and len(lines) == 10
    assert any(line.startswith("0 (first)") for line in lines)
    assert f"cvae train --recipe {report['best']['recipe']}" in lines[-3]
    assert f"cvae export onnx {report['best']['run']}" in lines[-2]


def test_changed_flags_require_another_study(report, capsys):
    assert cvae(*QUICK_TUNE, "--trials", "5", "--lr", "0.5") == 2
    assert "--lr 0.001, not 0.5" in capsys.readouterr().err
    assert cvae(*QUICK_TUNE, "--trials", "5", "--search", "ema=0,0.9") == 2
    assert "--search ema" in capsys.readouterr().err


# -- a study with simulated training -----------------------------------------------------------------------------------

SIMULATED_TRAINING = '''
import math, os, signal
from pathlib import Path
from cvae.data import load_dataset
from cvae.tuning import study
from cvae.engine.resolve import configure
from cvae.errors import CvaeError, Diverged, Interrupted

trained = []

def train(config, out, *, quiet, on_epoch):
    """Report epochs whose bounds depend on the learning rate, and cause the event `events[N]` in trial N."""
    number = int(Path(out).name.removeprefix("trial-"))
    trained.append((number, config))
    Path(out).mkdir(parents=True)
    resolved = configure(config, load_dataset(config))
    (Path(out) / "config.json").write_text(resolved.to_json())
    (Path(out) / "model.safetensors").write_text("weights")
    event = events.get(number)
    for epoch in range(1, resolved.training.epochs + 1):
        bound = abs(math.log(config.lr / 3e-3)) + 1 / epoch + (50 if event == "bad" else 0)
        steps = {"step": epoch, "total_steps": resolved.training.epochs}
        on_epoch({"epoch": epoch, **steps, "validation": {"bound": bound}})
        if event == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "stop":
            raise Interrupted("stopped at step 7")
        if event == "diverge":
            raise Diverged("the loss is nan near step 7")
        if event == "fail":
            raise CvaeError("the disk is full")
    return out

study.train = train
'''


@pytest.fixture
def run_study(in_tmp, monkeypatch) -> Callable[..., Study]:
    """Return a function that runs a study in ./s with simulated training. `Study.trained` lists the trained trials."""

    def run(trials: int, events: dict[int, str] | None = None, base: TrainConfig = BASE, **options: Any) -> Study:
        namespace: dict[str, Any] = {"events": events or {}}
        before = study_module.train
        try:
            exec(SIMULATED_TRAINING, namespace)
            study = Study(base, options.pop("space", SPACE), name="s", **{"out": Path("s"), **options})
            study.trained = namespace["trained"]  # type: ignore[attr-defined]
            study.run(trials)
        finally:
            monkeypatch.setattr(study_module, "train", before)
        return study

    return run


def outcomes(study: Study) -> dict[int, str]:
    return {trial.number: study_module.outcome(trial) for trial in sorted(study.trials, key=lambda trial: trial.number)}


def test_first_trial_uses_the_flags_even_if_outside_the_search_space(run_study):
    base = replace(BASE, lr=0.5, latent_dim=32)
    study = run_study(3, base=base, space={**SPACE, "arch.hidden": ("[16]", "[8, 8]")})
    assert study.trained[0] == (0, base)
    first = next(trial for trial in study.trials if trial.number == 0)
    assert first.params == {"latent_dim": 32, "arch.hidden": "[16]"}
    for number, config in study.trained[1:]:
        (trial,) = (t for t in study.trials if t.number == number)
        assert 1e-4 <= config.lr <= 1e-2 and config.options["arch"]["hidden"] == json.loads(trial.params["arch.hidden"])


def test_trials_with_bad_bounds_are_pruned_and_their_runs_removed(run_study):
    study = run_study(12, {8: "bad", 10: "bad"}, base=replace(BASE, epochs=40))
    pruned = {number for number, outcome in outcomes(study).items() if outcome == "pruned"}
    assert {8, 10} <= pruned and len(outcomes(study)) == 12
    assert study.best and [path.name for path in Path("s").glob("trial-*")] == [f"trial-{study.best.number:03}"]
    # A trial is not pruned in the first quarter of its epochs.
    assert all(t.last_step is not None and t.last_step >= 5 for t in study.trials if t.number in pruned)


def test_study_is_reproducible(run_study):
    trained = run_study(8).trained
    run_study(3, out=Path("other"))
    assert run_study(8, out=Path("other")).trained == trained[3:]  # even if it is run in two calls
    assert run_study(8, out=Path("more"), base=replace(BASE, seed=1)).trained[1][1].lr != trained[1][1].lr


def test_diverging_trial_is_recorded_as_failed(run_study, capsys):
    study = run_study(7, dict.fromkeys([0, 2, 3, 4, 6], "diverge"))
    assert [number for number, outcome in outcomes(study).items() if outcome == "failed"] == [0, 2, 3, 4, 6]
    assert "trial 2: failed (the loss is nan near step 7); lr" in capsys.readouterr().err


def test_study_from_an_older_version_can_be_resumed(run_study):
    """The flags that an older version stored include `beta`, but lack a newer flag."""
    base = replace(BASE, options={**BASE.options, "objective": {"beta": 4.0}})
    study = run_study(2, base=base)
    flags = study.optuna.user_attrs["flags"]
    old_flags = {**flags, "options": {"arch": {"hidden": [16]}}, "beta": 4.0, "free_bits": None}
    del old_flags["crop"]
    study.optuna.set_user_attr("flags", old_flags)
    assert len(outcomes(run_study(3, base=base))) == 3
    with pytest.raises(UsageError, match=r"--crop 1.0, not 0.5"):
        run_study(3, base=replace(base, crop=0.5))


def test_consecutive_failures_end_the_study(run_study):
    with pytest.raises(CvaeError, match="disk is full"):
        run_study(20, {2: "fail", 3: "fail", 4: "fail"})
    assert len(outcomes(run_study(6))) == 6  # the study can be resumed


def test_failing_first_trial_ends_the_study_but_can_be_retried(run_study):
    with pytest.raises(CvaeError, match="disk is full"):
        run_study(4, {0: "fail"})
    changed = replace(BASE, lr=5e-3)
    study = run_study(4, base=changed)
    assert outcomes(study) == {0: "failed", 1: "complete", 2: "complete", 3: "complete", 4: "complete"}
    assert study.trained[0] == (1, changed)


@pytest.mark.parametrize("number", [0, 2])
def test_interrupted_study_repeats_the_unfinished_trial(run_study, number):
    with pytest.raises(Interrupted, match=f"{number} of 4 trials.*same command") as caught:
        run_study(4, {number: "stop"})
    assert caught.value.exit_code == 130
    study = run_study(4)
    assert outcomes(study)[number] == "stopped" and list(outcomes(study).values()).count("complete") == 4
    params = {trial.number: trial.params for trial in study.trials}
    assert params[number + 1] == params[number]
    assert len(list(Path("s").glob("trial-*"))) == 1


def worker(events: dict[int, str], trials: int, out: str, storage: str | None) -> list[str]:
    program = f"""
events = {events!r}
{SIMULATED_TRAINING}
from cvae.config import TrainConfig
from cvae.tuning.search_space import Range
base = TrainConfig(**{ {k: getattr(BASE, k) for k in ("arch", "data", "limit", "epochs", "options", "trackers")}!r})
study.Study(base, {SPACE!r}, name="s", out=Path({out!r}), storage={storage!r}).run({trials})
"""
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]


@pytest.mark.slow
@pytest.mark.integration
def test_killed_worker_does_not_block_the_study(run_study):
    result = subprocess.run(worker({2: "kill"}, 5, "s", None))
    assert result.returncode == -9 and Path("s/trial-002").exists()
    with Path("s/study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 5, "wor')  # a truncated line
    study = run_study(5)
    assert outcomes(study)[2] == "stopped" and list(outcomes(study).values()).count("complete") == 5
    trials = {trial.number: trial for trial in study.trials}
    assert trials[3].params == trials[2].params and not Path("s/trial-002").exists()


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("storage", ["shared/study.journal", "sqlite:///study.db"])
def test_two_workers_share_a_study(run_study, storage):
    workers = [subprocess.Popen(worker({}, 8, out, storage), stderr=subprocess.PIPE, text=True) for out in ("a", "b")]
    for process in workers:
        _, error = process.communicate()
        assert process.returncode == 0, error
    study = run_study(8, storage=storage, out=Path("c"))
    result = [trial for trial in study.trials if trial.state in study_module.DONE]
    assert not study.trained and 8 <= len(result) <= 9
    assert len({tuple(trial.params.items()) for trial in result}) == len(result)
    assert study.best is not None
    folders = [path for out in ("a", "b") for path in Path(out).glob("trial-*")]
    assert any(path.name == study.folder(study.best).name for path in folders)
    # The run of the best trial is in the folder of a different worker.
    assert from_dict(TrainConfig, read_recipe("c/best.toml")) == study.config(study.best)
    from cvae.tuning.report import summary, table

    assert summary(study)["best"]["run"] is None and "its run is on" in table(summary(study))


# -- invalid studies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--storage", "sqlite:///no/folder/x.db"], 1, ["sqlite:///no/folder/x.db"]),
        (["--storage", "nodb://me:secret@host/x"], 1, ["nodb://me:***@host/x"]),
        (["--storage", "."], 1, ["'.'"]),
        (["--validation", "0"], 2, ["--validation"]),
        (["--search", "arch.widht=1,2"], 2, ["'widht'"]),
        (["--search", "arch.hidden=[8],7"], 2, ["hidden=7"]),
        (["--search", "batch_size=0..9"], 2, ["batch_size 0"]),
        (["--search", "optimizer=adam,sgd"], 2, ["'sgd'"]),
        (["--arch", "mlpp"], 2, ["'mlpp'"]),
        (["--recipe", "nope"], 2, ["'nope'"]),
        (["--trials", "0"], 2, ["--trials"]),
    ],
)
def test_invalid_study_is_rejected_before_it_starts(in_tmp, capsys, flags, code, words):
    assert cvae("tune", "--arch", "mlp", *flags) == code
    err = capsys.readouterr().err
    assert all(word in err for word in words) and "secret" not in err and "Traceback" not in err
    assert code == 1 or not list(Path().iterdir())


def test_tune_rejects_torchrun(in_tmp, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cvae("tune") == 2 and "--storage" in capsys.readouterr().err


def test_tune_names_missing_extra(in_tmp, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    assert cvae("tune") == 1
    assert capsys.readouterr().err.endswith(f"{install_command('tune')}\n")


def test_every_flag_of_train_is_a_flag_of_tune():
    train_flags, tune_flags = (inspect.signature(command).parameters for command in (train_command, tune_command))
    assert set(train_flags) - set(tune_flags) == {"resume", "export"}
    assert set(tune_flags) - set(train_flags) == {"trials", "search", "study", "storage"}
