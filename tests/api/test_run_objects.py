"""`cvae.Run` and `cvae.runs`."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import cvae
from cvae.errors import CvaeError, UsageError
from cvae.model_zoo import models

FOLDER = models()["mnist-resnet-conditional"]


@pytest.fixture
def run(tmp_path) -> cvae.Run:
    """Return a copy of a run from the zoo."""
    return cvae.Run(shutil.copytree(FOLDER, tmp_path / "run"))


def test_run_can_be_used_as_a_path(run):
    assert os.fspath(run) == str(run) == str(run.path) and Path(run) == run.path
    assert run == cvae.Run(run) and hash(run) == hash(cvae.Run(run)) and run != cvae.Run(FOLDER)
    assert cvae.load(run).spec.name == cvae.load(run.path).spec.name


def test_run_has_config_and_metrics(run):
    assert run.config.model.architecture.name == "resnet"
    assert len(run.metrics) == run.config.training.epochs + 1 and "test" in run.metrics[-1]
    assert repr(run).startswith(f"<cvae.Run {str(run.path)!r}: validation ") and repr(run).endswith(" nats per image>")


def test_bounds_are_those_of_the_saved_weights(run):
    records = run.metrics
    expected = min(record["validation"]["bound"] for record in records[:-1])
    assert run.bounds == {"validation": expected, "test": records[-1]["test"]["bound"]}
    weighted = [{"validation": {"bound": b, "importance_weighted": w}} for b, w in ((3.0, 2.0), (4.0, 1.0), (2.0, 3.0))]
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, weighted)))
    assert run.bounds == {"validation": 4.0}
    (run.path / "metrics.jsonl").write_text("\n".join(json.dumps(record) for record in (records[9], records[0])))
    assert cvae.info(run)["validation_bound"].startswith(f"{run.bounds['validation']:.2f} nats")
    assert cvae.info(run)["train_bound"].startswith(f"{records[9]['train']['bound']:.2f} nats")
    (run.path / "metrics.jsonl").write_text('{"train": {}}\n')
    assert run.bounds == {} and repr(run) == f"<cvae.Run {str(run.path)!r}>"
    (run.path / "metrics.jsonl").write_text("damaged")
    assert repr(run) == f"<cvae.Run {str(run.path)!r}>"
    (run.path / "metrics.jsonl").unlink()
    assert run.bounds == {}


def test_metrics_can_be_converted_to_a_data_frame(run, monkeypatch):
    pytest.importorskip("pandas")
    frame = run.to_pandas()
    assert len(frame) == len(run.metrics) and frame["validation.bound"].min() == run.bounds["validation"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CvaeError, match="needs pandas, which is not installed: pip install pandas"):
        run.to_pandas()


def test_plot_losses_draws_the_bound_and_its_terms(run):
    figure = run.plot_losses()
    assert len(cvae.plot.losses(run).axes) == len(cvae.plot.losses([run]).axes) == 3
    assert [axes.get_title() for axes in figure.axes] == ["bound = distortion + rate", "distortion", "rate"]


def test_folder_without_a_run_is_rejected(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run; cvae\.runs\(\) lists"):
        cvae.Run(tmp_path)
    with pytest.raises(UsageError, match=r"'nothing' is not a run; cvae\.runs\(\) lists"):
        cvae.resume("nothing")


def test_runs_are_listed_newest_first(in_tmp, run):
    assert cvae.runs() == cvae.runs("nowhere") == []
    for i, name in enumerate(("b", "c", "a")):
        shutil.copytree(run.path, f"runs/{name}")
        os.utime(f"runs/{name}/config.json", (i, i))
    assert [item.path.name for item in cvae.runs()] == ["a", "c", "b"]
    assert cvae.runs(in_tmp / "runs") == cvae.runs() and cvae.Run("a") == cvae.Run("runs/a")


def test_evaluate_method_calls_the_evaluate_function(run, monkeypatch):
    calls = []
    monkeypatch.setattr(cvae, "evaluate", lambda *args, **options: calls.append((args, options)) or {}, raising=False)
    run.evaluate(samples=3)
    run.evaluate(split="train")
    assert calls == [((run.path,), {"split": None, "samples": 3}), ((run.path,), {"split": "train"})]
