"""`cvae train --resume` with the flags of the first call, as when a job queue repeats a command."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cvae as package
from cvae.api.train_config import RESUMABLE
from cvae.config import SHORT_FLAGS, TrainConfig
from cvae.data import Dataset, Split
from cvae.engine.resolve import configure
from cvae.model_zoo import recipes

START = TrainConfig(
    arch="mlp", conditional=True, latent_dim=4, data="folder:w", size=16, binarize="dynamic", validation=0.2,
    without=("c", "d"), condition=("age:number",), ignore=("id",), path_column="photo", limit=100, flip=True,
    shift=1, crop=0.9, rotate=5.0, zoom=0.1, jitter=0.1, consistency=0.1,
    kl_warmup=1.0, init="runs/first", epochs=5, batch_size=8, accumulate=2, optimizer="adamw", lr=2e-3,
    lr_scales=("encoder.*=2",), freeze=("prior",), center=True, mean_init=True, weight_decay=0.1, schedule="step",
    milestones=(2, 4), warmup=3, drop_conditions=0.2, balance=True, impute=True, clip=1.0, ema=0.9, seed=7,
    losses=("perceptual", "adversarial"),
    options={
        "arch": {"hidden": [32]}, "objective": {"beta": 2}, "optimizer": {"betas": [0.8, 0.9]},
        "adversarial": {"weight": 0.25},
    },
)  # fmt: skip
"""Config with which the run in these tests was started. Its likelihood is chosen from the data."""

FLAGS: dict[str, tuple[list[str], list[str]]] = {
    "arch": (["--arch mlp"], ["--arch conv"]),
    "conditional": (["--conditional"], ["--no-conditional"]),
    "conditioning": (["--conditioning film"], ["--conditioning concat"]),
    "likelihood": (["--likelihood gaussian-optimal"], ["--likelihood bernoulli"]),
    "prior": (["--prior flow"], ["--prior normal"]),
    "latent_dim": (["--latent-dim 4"], ["--latent-dim 5"]),
    "size": (["--size 16", "--size 16x16"], ["--size 32", "--size 16x32"]),
    "condition": (["--condition age:number"], ["--condition age:category"]),
    "ignore": (["--ignore id"], ["--ignore name"]),
    "path_column": (["--path-column photo"], ["--path-column picture"]),
    "binarize": (["--binarize dynamic"], ["--binarize none"]),
    "validation": (["--validation 0.2"], ["--validation 0"]),
    "without": (["--exclude-class c --exclude-class d", "--exclude-class d --without c"], ["--exclude-class c"]),
    "limit": (["--limit 100"], ["--limit 101"]),
    "flip": (["--flip"], ["--no-flip"]),
    "shift": (["--shift 1"], ["--shift 0"]),
    "crop": (["--crop 0.9"], ["--crop 1"]),
    "rotate": (["--rotate 5"], ["--rotate 0"]),
    "zoom": (["--zoom 0.1"], ["--zoom 0"]),
    "jitter": (["--jitter 0.1"], ["--jitter 0"]),
    "consistency": (["--consistency 0.1"], ["--consistency 0"]),
    "objective": (["--objective elbo"], ["--objective iwae"]),
    "beta": (["--beta 2", "--beta 2 --set objective.beta=5"], ["--beta 1"]),
    "free_bits": (["--free-bits 0"], ["--free-bits 1"]),
    "losses": (["--loss perceptual --loss adversarial", "--loss adversarial --loss perceptual"], ["--loss perceptual"]),
    "kl_warmup": (["--kl-warmup 1"], ["--kl-warmup 0"]),
    "init": (["--init runs/first", "--init {cwd}/runs/first"], ["--init runs/second"]),
    "batch_size": (["--batch-size 8"], ["--batch-size 16"]),
    "accumulate": (["--accumulate 2"], ["--accumulate 1"]),
    "optimizer": (["--optimizer adamw"], ["--optimizer adam"]),
    "lr": (["--lr 0.002", "--lr 2e-3"], ["--lr 0.001"]),
    "lr_scales": (["--lr-scale encoder.*=2"], ["--lr-scale encoder.*=3"]),
    "freeze": (["--freeze prior"], ["--freeze encoder"]),
    "center": (["--center"], ["--no-center"]),
    "mean_init": (["--mean-init"], ["--no-mean-init"]),
    "weight_decay": (["--weight-decay 0.1"], ["--weight-decay 0"]),
    "schedule": (["--schedule step"], ["--schedule cosine"]),
    "milestones": (["--milestone 2 --milestone 4"], ["--milestone 2"]),
    "warmup": (["--warmup 3"], ["--warmup 0"]),
    "drop_conditions": (["--drop-conditions 0.2"], ["--drop-conditions 0"]),
    "balance": (["--balance"], ["--no-balance"]),
    "impute": (["--impute"], ["--no-impute"]),
    "clip": (["--clip 1"], ["--clip 0"]),
    "ema": (["--ema 0.9"], ["--ema 0"]),
    "seed": (["--seed 7"], ["--seed 0"]),
    "precision": (["--precision bf16", "--precision auto"], ["--precision fp32"]),
}
"""For each field that cannot change, flags that agree with the run and flags that do not."""

OPTIONS = {
    "arch": ("arch.hidden=[32]", "arch.hidden=[400]"),
    "likelihood": ("likelihood.sigma=0.1", "likelihood.sigma=0.2"),
    "prior": ("prior.couplings=8", "prior.couplings=4"),
    "objective": ("objective.beta=2", "objective.beta=1"),
    "adversarial": ("adversarial.weight=0.25", "adversarial.weight=0.5"),
    "optimizer": ("optimizer.betas=[0.8,0.9]", "optimizer.betas=[0.9]"),
}
"""For each part with options, a --set assignment that agrees with the run and one that does not."""

CHANGES = {
    "epochs": ("--epochs 9", 9),
    "minutes": ("--minutes 0.5", 0.5),
    "device": ("--device cpu", "cpu"),
    "patience": ("--patience 3", 3),
    "on_nan": ("--on-nan skip", "skip"),
    "compile": ("--no-compile", False),
    "trackers": ("--tracker none", ("none",)),
    "data": ("--data folder:moved", "folder:moved"),
    "data_dir": ("--data-dir elsewhere", "elsewhere"),
}
"""For each field that can change, a flag and the value that `cvae.resume` receives."""


@pytest.fixture
def resume_calls(in_tmp, monkeypatch) -> list[dict[str, Any]]:
    """Write the config of an untrained run to `run`, and return the list of calls to `cvae.resume`."""
    shades = np.random.default_rng(0).integers(0, 256, (100, 1, 16, 16), dtype=np.uint8)
    labels = np.arange(100) % 2
    dataset = Dataset(name="w", train=Split(images=shades, labels=labels), classes=("a", "b"), data_license="free")
    config = configure(START, dataset)
    config = replace(config, training=replace(config.training, precision="bf16", compile=False))
    Path("run").mkdir()
    Path("run/config.json").write_text(config.to_json())
    Path("run/metrics.jsonl").write_text("{}\n")
    calls: list[dict[str, Any]] = []

    def resume(out: Path, *, export: bool, **changes: Any) -> package.Run:
        assert export
        calls.append(changes)
        return package.Run(out)

    monkeypatch.setattr(package, "resume", resume, raising=False)
    return calls


@pytest.fixture
def resume_run(cvae, resume_calls) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that resumes the run with flags and returns the calls to `cvae.resume`."""

    def run(*flags: str) -> list[dict[str, Any]]:
        result = cvae("train", "--resume", "--out", "run", *flags)
        assert result.code == 0, result.err
        return resume_calls

    return run


@pytest.fixture
def assert_fails(cvae, resume_calls) -> Callable[..., None]:
    """Return a function that checks that resuming the run with flags fails with one error line."""

    def run(words: list[str], *flags: str) -> None:
        result = cvae("train", "--resume", "--out", "run", *flags)
        assert (result.code, result.out, resume_calls) == (2, "", [])
        assert result.err.startswith("cvae: error: ") and result.err.count("\n") == 1
        assert all(word in result.err for word in words), result.err

    return run


def split(flags: str) -> list[str]:
    return flags.format(cwd=Path.cwd()).split()


def test_every_field_of_the_config_has_test_flags():
    assert {*FLAGS, *CHANGES, "options"} - SHORT_FLAGS.keys() == {f.name for f in dataclasses.fields(TrainConfig)}
    assert SHORT_FLAGS.keys() <= FLAGS.keys()
    assert set(CHANGES) == set(RESUMABLE)


def test_changeable_flags_are_the_parameters_of_resume():
    parameters = inspect.signature(package.resume).parameters
    assert set(RESUMABLE) == set(parameters) - {
        "out",
        "images",
        "labels",
        "classes",
        "conditions",
        "export",
        "quiet",
        "on_epoch",
    }


@pytest.mark.parametrize("flags", [flags for equal, _ in FLAGS.values() for flags in equal])
def test_resume_accepts_flags_that_agree_with_the_run(resume_run, flags):
    assert resume_run(*split(flags)) == [{}]


@pytest.mark.parametrize(
    ("name", "flags"), [(name, flags) for name, (_, differing) in FLAGS.items() for flags in differing]
)
def test_resume_rejects_flag_that_differs(assert_fails, name, flags):
    flag, *_ = flags.replace("--no-", "--").split()
    recorded = {"beta": 2.0, "free_bits": 0.0, "likelihood": "gaussian-optimal", "precision": "bf16"}
    start = recorded[name] if name in recorded else getattr(START, name)
    expected = (
        flag if start is True else " ".join(f"{flag} {v!r}" for v in (start if isinstance(start, tuple) else [start]))
    )
    assert_fails([flags.split()[0], f"was started with {expected};", "--epochs", "--out"], *split(flags))


@pytest.mark.parametrize("assignments", OPTIONS.values(), ids=OPTIONS)
def test_resume_accepts_options_that_agree_with_the_run(resume_run, assignments):
    assert resume_run("--set", assignments[0]) == [{}]


@pytest.mark.parametrize("assignments", OPTIONS.values(), ids=OPTIONS)
def test_resume_rejects_option_that_differs(assert_fails, assignments):
    agreeing, differing = (assignment.replace(",", ", ") for assignment in assignments)  # as messages format lists
    option, _, value = agreeing.partition("=")
    words = [f"--set {differing}", f"--set {option}={value}"]
    words = [word.replace("--set objective.beta=", "--beta ") for word in words]  # the short flag
    assert_fails(words, "--set", differing)


def test_resume_rejects_option_that_the_run_does_not_have(assert_fails):
    assert_fails(["--set arch.width=3", "without --set arch.width"], "--set", "arch.width=3")


@pytest.mark.parametrize(("flags", "value"), CHANGES.values(), ids=CHANGES)
def test_resume_applies_changeable_flags(resume_run, flags, value):
    (change,) = resume_run(*flags.split())
    assert list(change.values()) == [value]


def test_error_names_the_first_flag_that_differs(assert_fails):
    assert_fails(["--latent-dim 5"], "--arch", "mlp", "--lr", "1", "--latent-dim", "5", "--epochs", "9")


def test_resume_rejects_flag_that_the_run_was_started_without(assert_fails):
    config = json.loads(Path("run/config.json").read_text())
    config["training"]["limit"] = None
    Path("run/config.json").write_text(json.dumps(config))
    assert_fails(["--limit 5", "without --limit"], "--limit", "5")


def test_resume_accepts_the_config_of_the_run_as_recipe(resume_run):
    (changes,) = resume_run("--recipe", "run/config.json")
    assert changes.keys() <= set(RESUMABLE) and changes["epochs"] == 5


def test_resume_compares_values_of_a_recipe_like_flags(resume_run, assert_fails):
    recipe = Path("flags.toml")
    recipe.write_text('arch = "mlp"\nlr = 0.001\nepochs = 9\n[options.arch]\nhidden = [32]\n')
    assert_fails(["--lr 0.001", "--lr 0.002"], "--recipe", "flags.toml")
    assert resume_run("--recipe", "flags.toml", "--lr", "0.002") == [{"epochs": 9}]  # a flag overrides the recipe


def test_resume_ignores_recipe_options_of_a_part_replaced_by_a_flag(resume_run):
    Path("flags.toml").write_text('arch = "conv"\n[options.arch]\nwidth = 8\n')
    assert resume_run("--recipe", "flags.toml", "--arch", "mlp") == [{}]


@pytest.mark.parametrize("name", recipes())
def test_resume_rejects_recipe_that_differs_from_the_run(assert_fails, name):
    assert_fails(["'run' was started"], "--recipe", name)


COMMAND = "train --arch mlp --size 16 --epochs 1 --batch-size 8 --tracker none --no-export --out r --data folder:w"


def write_images(folder: str, count: int = 12, first_seed: int = 0) -> None:
    Path(folder).mkdir(exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(first_seed + i).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{i}.png")


@pytest.mark.integration
def test_run_can_be_resumed_after_its_data_moved_but_not_after_they_changed(cvae):
    write_images("w")
    assert cvae(*COMMAND.split()).code == 0
    Path("w").rename("moved")
    resume = ["train", "--resume", "--no-export", "--out", "r", "--epochs"]
    assert "no such folder" in cvae(*resume, "2").err
    result = cvae(*resume, "2", "--data", "folder:moved")
    assert result.code == 0, result.err
    assert json.loads(Path("r/config.json").read_text())["training"]["data"] == "folder:moved"
    assert cvae(*resume, "3").code == 0
    write_images("moved", 5, first_seed=100)
    for flags in ([], ["--data", "folder:moved"]):
        result = cvae(*resume, "4", *flags)
        assert result.code == 1 and "5 of 12 images or labels differ" in result.err
    write_images("moved", 13)
    result = cvae(*resume, "4", "--data", "folder:moved")
    assert result.code == 1 and "the numbers of images are train 13, not train 12" in result.err


@pytest.mark.integration
def test_command_can_be_repeated_with_resume(cvae):
    write_images("w")
    command = COMMAND.split()
    assert cvae(*command).code == 0
    second_call = cvae(*command, "--resume")
    assert second_call.code == 0 and "this run is complete" in second_call.err
    assert cvae(*command, "--resume", "--epochs", "2", "--data-dir", "elsewhere").code == 0
    records = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "epoch" in record] == [1, 2]
    assert json.loads(Path("r/config.json").read_text())["training"]["data_dir"] == "elsewhere"
