"""Arguments of `cvae.train` and `cvae.resume`: flags by name, recipes, and images in memory."""

import dataclasses
import inspect
import json
import pydoc
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cvae as package
from cvae import TrainConfig
from cvae.api import training
from cvae.config import SHORT_FLAGS
from cvae.errors import MissingExtraError, UsageError
from cvae.model_zoo import models, recipes

IMAGES = np.random.default_rng(0).random((60, 8, 8), np.float32)
LABELS = np.arange(60) % 3
QUICK: dict[str, Any] = {"arch": "mlp", "epochs": 1, "latent_dim": 4, "trackers": ["none"], "quiet": True}


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch) -> Path:
    """Keep cached images in the temporary folder of the test."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches" / "arrays"


@pytest.fixture
def configs(in_tmp, monkeypatch) -> list[TrainConfig]:
    """Replace training with a stub, and return the list of the configs that it is called with."""
    calls: list[TrainConfig] = []

    def train(config: TrainConfig, out: Path, **options: Any) -> Path:
        calls.append(config)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text((models()["mnist-resnet-flow"] / "config.json").read_text())
        return out

    monkeypatch.setattr("cvae.engine.train", train)
    monkeypatch.setattr(training, "_finish", lambda path, **options: None)
    return calls


# -- signature and documentation ---------------------------------------------------------------------------------------


def test_signature_has_every_flag_with_its_default():
    parameters = inspect.signature(package.train).parameters
    names = {field.name for field in dataclasses.fields(TrainConfig)} | SHORT_FLAGS.keys()
    own = {"config", "out", "images", "labels", "classes", "conditions", "recipe", "export", "quiet", "on_epoch"}
    assert set(parameters) == names | own
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig) if field.name != "options"}
    assert {name: parameters[name].default for name in defaults} == defaults
    assert all(parameters[name].default is None for name in ("beta", "free_bits", "options", "out", "images"))
    assert {name for name in parameters if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY} == {
        "config",
        "out",
    }
    assert typing.get_args(parameters["size"].annotation) == (int, str, type(None))


def test_help_describes_every_flag():
    text = " ".join(pydoc.render_doc(package.train, renderer=pydoc.plaintext).split())
    for name, flag in {**package.config.flags_of(TrainConfig), **SHORT_FLAGS}.items():
        assert f"{name}: {flag.help}" in text
    assert "may be repeated" not in text.lower() and "without: Classes to exclude. (--exclude-class on the" in text
    assert "lr: Learning rate. [default: 0.005]" in text and "options: Options of the parts" in text
    assert "arch: Architecture of the networks; see `cvae parts`. [default: 'resnet']" in text


def test_package_works_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    text = pydoc.render_doc(package, renderer=pydoc.plaintext)
    namespace: dict[str, Any] = {}
    exec("from cvae import *", namespace)
    for name in package.__all__:
        assert hasattr(package, name) and name in namespace and name in dir(package)
        assert name == "__version__" or name in text
    calls = [lambda: package.train(), lambda: package.resume("run"), lambda: package.load_model("run")]
    for call in calls:
        with pytest.raises(MissingExtraError, match=r"^cvae\.(train|resume|load_model) needs packages"):
            call()
    assert not hasattr(package, "trian")


# -- flags -------------------------------------------------------------------------------------------------------------


def test_flags_reach_the_config(configs):
    run = package.train(
        out="run", arch="mlp", lr=1, size=np.int64(8), milestones=[1, 2], schedule="step", exclude_class=["3"],
        data_dir=Path("here"), beta=np.float32(4), options={"arch": {"hidden": [32]}}, init=None,
    )  # fmt: skip
    assert isinstance(run, package.Run) and run.path == Path("run")
    assert configs == [
        TrainConfig(
            arch="mlp", lr=1.0, size=8, milestones=(1, 2), schedule="step", without=("3",), data_dir="here",
            options={"arch": {"hidden": [32]}, "objective": {"beta": 4.0}},
        )
    ]  # fmt: skip


def test_flags_override_a_recipe_and_the_network_of_a_run(configs):
    package.train(recipe=recipes()["pytorch-vae"], data="digits", latent_dim=3)
    package.train(recipe="pytorch-vae")
    assert configs[0] == dataclasses.replace(configs[1], data="digits", latent_dim=3)
    package.train(init=package.Run(models()["mnist-ladder"]), latent_dim=7)
    assert (configs[2].arch, configs[2].size, configs[2].latent_dim) == ("ladder", 28, 7)


def test_new_run_gets_its_own_folder(configs):
    paths = [package.train(arch="conv", conditional=True).path for _ in range(2)]
    assert paths == [Path("runs/digits-conv-conditional"), Path("runs/digits-conv-conditional-2")]
    assert package.train(recipe="pytorch-vae").path == Path("runs/pytorch-vae")


def test_failed_start_leaves_no_folder(in_tmp):
    with pytest.raises(UsageError, match="no-such"):
        package.train(data="folder:no-such")
    assert list(in_tmp.glob("runs*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": "five"}, r"epochs is 'five': it must be an integer or None"),
        ({"epochs": True}, r"epochs is True: it must be an integer or None"),
        ({"lr": None}, r"lr is None: it must be a number"),
        ({"flip": 1}, r"flip is 1: it must be True or False"),
        ({"arch": 3}, r"arch is 3: it must be a string"),
        ({"size": 3.5}, r"size is 3\.5: it must be an integer or a string or None"),
        ({"without": "7"}, r"without is '7': it must be a list of strings"),
        ({"milestones": ["a"]}, r"milestones is \['a'\]: it must be a list of integers or None"),
        ({"beta": "4"}, r"beta is '4': it must be a number or None"),
        ({"options": [1]}, r"options is \[1\]: it must be a dict"),
        ({"options": {"archi": {}}}, r"options contains 'archi'.*did you mean 'arch'"),
        ({"lr": -1.0}, r"lr -1\.0 is out of range"),
        ({"config": IMAGES}, r"config is array.*images=\.\.\."),
        ({"config": TrainConfig(), "epochs": 3}, r"epochs and a complete config can't be combined"),
        ({"config": TrainConfig(), "recipe": "x"}, r"recipe and a complete config can't be combined"),
        ({"labels": LABELS}, r"pass images too"),
        (
            {"images": IMAGES, "conditional": True},
            r"needs labels or conditions; pass labels=\.\.\.",
        ),
        ({"data": IMAGES}, r"data is of type ndarray: .*pass .* as images=\.\.\."),
        ({"device": "gpu"}, r"^device 'gpu' is unknown; did you mean 'cuda'"),
        ({"images": IMAGES, "data": "mnist"}, r"data='mnist' and images can't be combined"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_error_names_the_invalid_argument(configs, arguments, message):
    with pytest.raises(UsageError, match=message):
        package.train(**arguments)
    assert configs == []


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("epoch", "did you mean 'epochs'"),
        ("recipes", "did you mean 'recipe'"),
        ("x", "did you mean 'images'?"),
        ("learning_rate", "did you mean 'lr'?"),
        ("set", "did you mean 'options'?"),
        ("qqq", "help(cvae.train) lists the arguments"),
    ],
)
def test_error_for_unknown_argument_suggests_similar_name(configs, name, fix):
    with pytest.raises(TypeError) as caught:
        package.train(**{name: 3})
    assert str(caught.value).startswith(f"cvae.train() got an unexpected keyword argument {name!r}; {fix}")


def test_folder_of_another_run_is_rejected():
    with pytest.raises(UsageError, match=r"choose another out \(--out\), .* cvae\.resume \(--resume\)"):
        package.train(out=models()["mnist-resnet-flow"], arch="mlp")


def test_resume_checks_its_arguments():
    with pytest.raises(UsageError, match="labels, classes and conditions describe images"):
        package.resume("run", labels=LABELS)
    with pytest.raises(UsageError, match="epochs is 'five'"):
        package.resume("run", epochs="five")  # type: ignore[arg-type]


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "conditional"),
    [
        ({"labels": LABELS}, True),
        ({"labels": LABELS, "conditional": False}, False),
        ({}, False),
        ({"labels": LABELS, "config": TrainConfig(arch="mlp")}, False),
    ],
    ids=["labels", "not conditional", "no labels", "config"],
)
def test_model_is_conditional_by_default_if_there_are_labels(configs, arguments, conditional):
    package.train(images=IMAGES, **arguments)
    (config,) = configs
    assert config.conditional is conditional and config.data.startswith("arrays:")
    from cvae.data import load_dataset

    dataset = load_dataset(dataclasses.replace(config, validation=0.0))
    assert dataset.train.images.shape == (60, 1, 8, 8)
    assert (dataset.train.labels is not None) == ("labels" in arguments)


@pytest.mark.slow
@pytest.mark.integration
def test_run_on_arrays_can_be_resumed_by_the_command_and_in_python(cvae, cache_root, in_tmp):
    options = {**QUICK, "schedule": "constant", "warmup": 0, "export": False}
    run = package.train(images=IMAGES, labels=LABELS, classes=["a", "b", "c"], **options)
    assert run.path == Path("runs/arrays-mlp-conditional") and run.config.model.classes == ("a", "b", "c")
    assert cvae("train", "--resume", "--out", run, "--epochs", "2", "--no-export").code == 0
    other = package.train(images=IMAGES, labels=LABELS, classes=["a", "b", "c"], **{**options, "epochs": 2})
    assert [record["train"] for record in run.metrics] == [record["train"] for record in other.metrics]

    for path in cache_root.rglob("*.npy"):
        path.unlink()
    result = cvae("train", "--resume", "--out", run, "--epochs", "3", "--no-export")
    assert result.code == 1 and "cvae.resume(run, images=..., labels=...)" in result.err and result.err.count("\n") == 1
    for labels, classes in ((None, None), (LABELS, None), (LABELS[::-1], ["a", "b", "c"])):
        with pytest.raises(UsageError, match=r"these are not the images, .* and conditions that 'runs/arrays-mlp"):
            package.resume(run, images=IMAGES, labels=labels, classes=classes)
    resumed = package.resume(
        run, images=IMAGES, labels=LABELS, classes=["a", "b", "c"], epochs=3, export=False, quiet=True
    )
    assert resumed == run and len(resumed.metrics) == 3
    with pytest.raises(UsageError, match=r"was trained on 'mnist.*, not on images in memory"):
        package.resume(models()["mnist-resnet-flow"], images=IMAGES)


@pytest.mark.integration
def test_model_trained_on_arrays_can_generate(in_tmp):
    run = package.train(images=IMAGES, labels=LABELS, **QUICK)
    assert run.load().generate(2, label=1).shape == (2, 1, 8, 8)
    assert package.load(run).spec.classes == ("0", "1", "2")


@pytest.mark.integration
def test_run_on_arrays_is_exported_and_evaluated(in_tmp):
    run = package.train(images=IMAGES, labels=LABELS, **QUICK)
    assert [path.name for path in run.export(half=True)][:2] == ["decoder.onnx", "encoder.onnx"]
    report = run.evaluate(samples=2, generated=0)
    assert report["protocol"]["split"] == "validation" and json.dumps(report)


def test_invalid_labels_leave_no_run_folder(configs: list[TrainConfig], in_tmp: Path) -> None:
    call: Callable[..., Any] = package.train
    with pytest.raises(UsageError, match="continuous"):
        call(images=IMAGES, labels=IMAGES[:, 0, 0])
    assert configs == [] and list(in_tmp.iterdir()) == []
