"""`cvae train`: flags, recipes and resumed runs."""

import dataclasses
import inspect
import json
import types
import typing
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import QUICK_TRAIN
from PIL import Image
from safetensors.numpy import load_file

import cvae as package
from cvae.cli.train import train
from cvae.config import SHORT_FLAGS, TrainConfig, flag
from cvae.engine import load_model
from cvae.run import read_config


def test_flags_of_train_are_the_fields_of_its_config_and_the_short_flags():
    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"options"}
    parameters = inspect.signature(train).parameters
    own = {"recipe", "out", "resume", "set_", "export", "json"}
    assert set(parameters) - own == fields | SHORT_FLAGS.keys() | {"without_without"}  # the last is a hidden alias
    expected, actual = typing.get_type_hints(TrainConfig), typing.get_type_hints(train)
    for name in fields:
        expected_types = {*(typing.get_args(expected[name]) or [expected[name]]), types.NoneType}
        if name in (
            "trackers",
            "without",
            "milestones",
            "lr_scales",
            "freeze",
            "losses",
            "condition",
            "ignore",
        ):  # repeatable flags
            expected_types = {list[int] if name == "milestones" else list[str], types.NoneType}
        if name == "size":  # parsed from text
            expected_types -= {int}
        assert set(typing.get_args(actual[name])) == expected_types and parameters[name].default is None, name


@pytest.mark.integration
def test_every_flag_reaches_the_config(cvae):
    values = {
        "arch": "mlp-large", "conditional": True, "conditioning": "concat", "likelihood": "gaussian",
        "prior": "normal", "latent_dim": 5, "data": "digits", "data_dir": "somewhere", "size": 10,
        "binarize": "dynamic", "validation": 0.25, "limit": 64, "objective": "elbo", "losses": [],
        "kl_warmup": 1.5, "epochs": 2, "minutes": None, "batch_size": 16, "patience": 5,
        "optimizer": "adamw", "lr": 2e-3,
        "weight_decay": 0.01, "lr_scales": ["encoder.*=2"], "freeze": ["prior"], "center": True, "mean_init": True,
        "schedule": "step", "warmup": 2, "clip": 5.0, "ema": 0.5, "seed": 3, "device": "cpu", "precision": "fp32",
        "drop_conditions": 0.2, "balance": True, "impute": True,
        "flip": True, "shift": 1, "crop": 0.9, "rotate": 5.0, "zoom": 0.1, "jitter": 0.1, "consistency": 0.1,
        "accumulate": 2, "on_nan": "skip", "compile": False,
        "trackers": ["none"], "init": "first", "condition": [], "ignore": [], "path_column": None,
        "without": ["3", "5"], "milestones": [1],
    }  # fmt: skip
    assert set(values) == {f.name for f in dataclasses.fields(TrainConfig)} - {"options"}
    flags = [f"{flag(name)}={value}" for name, value in values.items() if not isinstance(value, bool | list | None)]
    flags += ["--lr-scale", "encoder.*=2", "--freeze", "prior", "--center", "--mean-init"]
    flags += ["--set", "optimizer.betas=[0.8, 0.9]"]
    flags += ["--conditional", "--balance", "--impute", "--flip", "--no-compile", "--no-export", "--tracker", "none"]
    flags += ["--exclude-class", "3", "--exclude-class", "5", "--milestone", "1", "--beta", "2", "--free-bits", "0.5"]
    flags += ["--set", "arch.hidden=[32]", "--set", "likelihood.sigma=0.2"]
    first = cvae("train", *(flag for flag in flags if not flag.startswith("--init")), "--out", "first")
    assert first.code == 0, first.err
    report = cvae("train", *flags, "--json").json
    assert report["run"] == "runs/digits-mlp-large-conditional"
    config = json.loads(Path(report["run"], "config.json").read_text())
    assert {name: config["training"][name] for name in values} == values
    assert config["training"]["options"]["objective"] == {"beta": 2.0, "free_bits": 0.5, "antithetic": True}
    assert config["training"]["options"]["optimizer"] == {"betas": [0.8, 0.9]}
    model = config["model"]
    assert (model["image_shape"], model["latent_dim"]) == ([1, 10, 10], 5)
    assert model["conditions"] == [{"name": "label", "kind": "category", "values": [*"01246789"], "optional": True}]
    assert model["architecture"] == {"name": "mlp-large", "options": {"hidden": [32]}}
    assert (model["conditioning"]["name"], model["prior"]["name"]) == ("concat", "normal")
    assert model["likelihood"] == {"name": "gaussian", "options": {"sigma": 0.2}}
    hidden = load_model(report["run"])[0].state_dict()["decoder.head.weight"]
    assert hidden.shape == (100, 32)


@pytest.mark.integration
def test_losses_and_their_options_reach_the_config_unless_a_flag_replaces_them(cvae):
    Path("sharp.toml").write_text(
        'arch = "mlp"\nepochs = 1\nlimit = 64\nloss = ["perceptual"]\n[options.perceptual]\nweight = 0.25\n'
    )
    flags = ["--loss", "adversarial", "--set", "adversarial.width=4"]
    run = cvae("train", "--no-export", "--recipe", "sharp.toml", *flags, "--json").json["run"]
    training = json.loads(Path(run, "config.json").read_text())["training"]
    assert training["losses"] == ["adversarial"] and "perceptual" not in training["options"]
    assert training["options"]["adversarial"]["width"] == 4
    assert cvae("info", run).out.count("adversarial") == 1
    failed = cvae("train", "--recipe", "sharp.toml", "--loss", "adversarial", "--set", "perceptual.weight=1")
    assert failed.code == 2 and "this run has no perceptual; remove the option, or add --loss perceptual" in failed.err


@pytest.mark.integration
def test_flags_override_recipe(cvae):
    Path("mine.toml").write_text(
        'arch = "mlp"\nlatent-dim = 5\nepochs = 1\nlimit = 64\nlr = 0.002\n[options.arch]\nhidden = [16]\n'
    )
    run = cvae("train", "--no-export", "--recipe", "mine.toml", "--json").json["run"]
    recipe = json.loads(Path(run, "config.json").read_text())
    assert recipe["training"]["lr"] == 0.002 and recipe["model"]["latent_dim"] == 5
    assert recipe["model"]["architecture"]["options"]["hidden"] == [16]
    flags = ["--latent-dim", 6, "--lr", 0.001, "--set", "arch.hidden=[32]", "--out", "x"]
    assert cvae("train", "--no-export", "--recipe", "mine.toml", *flags).code == 0
    config = json.loads(Path("x/config.json").read_text())
    assert (config["model"]["latent_dim"], config["training"]["lr"], config["training"]["limit"]) == (6, 0.001, 64)
    assert config["model"]["architecture"]["options"]["hidden"] == [32]


@pytest.mark.integration
def test_time_budget_replaces_the_epochs_of_a_recipe_and_vice_versa(cvae):
    Path("mine.toml").write_text('arch = "mlp"\nepochs = 500\nlimit = 64\n')
    flags = ["--no-export", "--tracker", "none", "--json"]
    first = cvae("train", "--recipe", "mine.toml", "--minutes", 0.02, *flags).json
    assert first["step"] >= 2
    training = json.loads(Path(first["run"], "config.json").read_text())["training"]
    assert (training["epochs"], training["minutes"], training["warmup"]) == (None, 0.02, None)
    assert "in 0.02 minutes" in cvae("info", first["run"]).out
    recipe = Path(first["run"], "config.json")
    second = cvae("train", "--recipe", recipe, "--epochs", 1, *flags).json
    training = json.loads(Path(second["run"], "config.json").read_text())["training"]
    assert (training["epochs"], training["minutes"]) == (1, None)
    failed = cvae("train", "--epochs", 2, "--minutes", 1)
    assert failed.code == 2 and failed.err == (
        "cvae: error: epochs 2 and minutes 1 both set the length of the run; remove one of them\n"
    )
    failed = cvae("train", "--resume", "--out", first["run"], "--epochs", 2, "--minutes", 1)
    assert failed.code == 2 and failed.err.endswith("remove one of them\n")


@pytest.mark.integration
def test_flag_that_replaces_a_part_drops_its_recipe_options(cvae):
    """A flag that names another part drops the options that the recipe has for its own part."""
    Path("mine.toml").write_text(
        'arch = "mlp"\nepochs = 1\nlimit = 64\n[options.arch]\nhidden = [16]\n[options.prior]\nhidden = 8\n'
    )
    assert cvae("train", "--no-export", "--recipe", "mine.toml", "--prior", "normal", "--out", "normal").code == 0
    model = json.loads(Path("normal/config.json").read_text())["model"]
    assert model["prior"] == {"name": "normal", "options": {}}
    assert model["architecture"]["options"] == {"hidden": [16]}
    flags = ["--prior", "flow", "--set", "prior.couplings=2", "--out", "flow"]
    assert cvae("train", "--no-export", "--recipe", "mine.toml", *flags).code == 0
    model = json.loads(Path("flow/config.json").read_text())["model"]
    assert model["prior"]["options"] == {"couplings": 2, "hidden": 8, "dims": 0}


@pytest.mark.integration
def test_runs_get_unique_names_and_config_reproduces_a_run(cvae):
    first = cvae(*QUICK_TRAIN, "--seed", 3, "--set", "arch.hidden=[32]", "--json").json["run"]
    second = cvae("train", "--no-export", "--recipe", f"{first}/config.json", "--json").json["run"]
    other = cvae(*QUICK_TRAIN, "--seed", 4, "--set", "arch.hidden=[32]", "--json").json["run"]
    assert len({first, second, other}) == 3 and {str(Path(run).parent) for run in (first, second, other)} == {"runs"}
    a, b, c = (Path(run, "model.safetensors").read_bytes() for run in (first, second, other))
    assert a == b != c


@pytest.mark.integration
def test_set_overrides_config_used_as_recipe(cvae):
    run = cvae(*QUICK_TRAIN, "--beta", 2, "--json").json["run"]
    cvae("train", "--no-export", "--recipe", f"{run}/config.json", "--set", "objective.beta=5", "--out", "x")
    assert json.loads(Path("x/config.json").read_text())["training"]["options"]["objective"]["beta"] == 5


@pytest.mark.integration
def test_train_fails_if_the_export_fails(cvae, monkeypatch):
    def export(run: Path) -> list[Path]:
        raise RuntimeError("an operator is missing")

    monkeypatch.setattr("cvae.exporters.onnx.export", export)
    result = cvae(*QUICK_TRAIN, "--export", "--out", "run", "--json")
    line = result.err.splitlines()[-1]
    assert (result.code, result.out) == (1, "") and Path("run/model.safetensors").is_file()
    assert line.startswith("cvae: error: 'run' is trained, but its export failed: an operator is missing; ")
    assert line.endswith("cvae export onnx run")


@pytest.mark.integration
def test_json_says_whether_the_model_is_exported(cvae):
    report = cvae(*QUICK_TRAIN, "--json").json
    assert report["exported"] is False and set(report) == {"run", "step", "test", "exported"}


@pytest.mark.integration
def test_resume_continues_where_the_run_stopped(cvae):
    run = cvae(*QUICK_TRAIN, "--json").json["run"]
    cvae(*QUICK_TRAIN, "--out", "runs/other")
    before = Path("runs/other/model.safetensors").read_bytes()
    assert cvae("train", "--no-export", "--resume", "--out", run, "--epochs", 3, "--json").json["run"] == run
    records = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "epoch" in record] == [1, 2, 3]
    assert json.loads(Path(run, "config.json").read_text())["training"]["epochs"] == 3
    assert Path("runs/other/model.safetensors").read_bytes() == before


@pytest.mark.integration
@pytest.mark.parametrize("validation", [0.1, 0])
def test_train_suggests_lower_learning_rate_when_loss_is_not_finite(cvae, validation):
    result = cvae(*QUICK_TRAIN, "--epochs", 1, "--lr", "1e30", "--validation", validation)
    assert result.code == 1 and "--lr" in result.err.splitlines()[-1] and "1e+30" in result.err.splitlines()[-1]


def test_train_with_init_uses_the_network_of_the_named_run(cvae, trained):
    flags = ["--epochs", 1, "--limit", 64, "--out", "more", "--json", "--no-export"]
    result = cvae("train", "--init", trained["labels"], *flags)
    assert result.code == 0, result.err
    config, source = (json.loads(Path(run, "config.json").read_text()) for run in ("more", trained["labels"]))
    assert config["model"] == source["model"]
    assert "nowhere" in cvae("train", "--init", "nowhere").err


def test_init_scales_images_to_the_size_of_the_named_run(cvae, trained):
    photos = Path("photos")
    photos.mkdir()
    for i in range(8):
        Image.new("L", (20, 16), 30 * i).save(photos / f"{i}.png")
    flags = ["--data", f"folder:{photos}", "--epochs", 1, "--validation", 0, "--no-export"]
    result = cvae("train", "--init", trained["plain"], *flags, "--out", "more")
    assert result.code == 0, result.err
    assert read_config(Path("more")).model.image_shape == read_config(trained["plain"]).model.image_shape == (1, 8, 8)
    Path("recipe.toml").write_text('init = "more"\nsize = "12x16"\n')
    result = cvae("train", "--recipe", "recipe.toml", *flags, "--out", "other")
    assert result.code == 2 and "images of 8x8 pixels in grey vs. 16x12 pixels in grey; choose" in result.err


def test_init_adds_labels_to_a_model_without_labels(cvae, trained):
    flags = ["--conditional", "--epochs", 1, "--limit", 64, "--lr", 1e-9, "--out", "more"]
    result = cvae("train", "--init", trained["plain"], *flags)
    assert result.code == 0, result.err
    assert f"the conditions have no effect at first, because {str(trained['plain'])!r} has none" in result.err
    seven = package.load("more").generate(1, label=7, seed=1)
    np.testing.assert_allclose(seven, package.load(trained["plain"]).generate(1, seed=1), atol=1 / 255)


def test_init_keeps_a_new_prior_and_says_so(cvae, trained):
    flags = [
        "--epochs",
        1,
        "--limit",
        64,
        "--prior",
        "flow-matching",
        "--freeze",
        "decoder",
        "--mean-init",
        "--out",
        "more",
        "--no-export",
    ]
    result = cvae("train", "--init", trained["labels"], *flags, "--out", "more")
    assert result.code == 0, result.err
    assert "the prior starts with new weights" in result.err
    assert "--mean-init has no effect, because --init sets the weights of the output" in result.err
    weights, source = (load_file(Path(run, "model.safetensors")) for run in ("more", trained["labels"]))
    assert np.array_equal(weights["decoder.head.weight"], source["decoder.head.weight"])


def test_error_for_init_does_not_name_conditions_that_can_be_added(cvae, trained):
    result = cvae("train", "--init", trained["plain"], "--conditional", "--latent-dim", 5, "--out", "other")
    latent_dim = read_config(trained["plain"]).model.latent_dim
    assert result.code == 2 and f"does not fit this run: {latent_dim} vs. 5 latent dimensions; choose" in result.err


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--latent-dim", 5], "{latent_dim} vs. 5 latent dimensions"),
        (["--exclude-class", "3", "--exclude-class", "4"], "10 vs. 8 classes"),
        (["--no-conditional"], "conditions vs. none (add --conditional)"),
        (["--size", 12], "images of 8x8 pixels in grey vs. 12x12 pixels in grey"),
        (["--set", "arch.hidden=[7]"], "arch.hidden {hidden} vs. [7]"),
    ],
)
def test_error_for_init_with_another_network_names_the_difference_and_leaves_no_folder(
    cvae, trained, flags, difference
):
    model = read_config(trained["labels"]).model
    difference = difference.format(latent_dim=model.latent_dim, hidden=model.architecture.options.get("hidden"))
    result = cvae("train", "--init", trained["labels"], *flags, "--out", "other")
    assert result.code == 2 and result.err == (
        f"cvae: error: --init '{trained['labels']}' does not fit this run: {difference}; choose data and flags that "
        "fit, or train without --init\n"
    )
    assert list(Path().iterdir()) == []
