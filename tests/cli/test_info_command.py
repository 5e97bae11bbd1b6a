"""`cvae info`, `cvae export onnx`, and the run that a command uses by default."""

import json
import os
import re
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest


@pytest.mark.parametrize("model", ["labels", "plain"])
def test_info_describes_run(cvae, trained, model):
    config = json.loads((trained[model] / "config.json").read_text())
    report = cvae("info", trained[model], "--json").json
    for key in ("image_shape", "latent_dim", "conditions"):
        assert report[key] == config["model"][key]
    assert report["architecture"].startswith("mlp (hidden [400]") and report["data"] == "digits"
    assert report["epochs"] == "20 of 20" and "nats" in report["test_bound"]
    assert {"config.json", "decoder.onnx", "encoder.onnx", "model.safetensors"} <= set(report["files"])
    text = cvae("info", trained[model]).out
    assert all(re.search(rf"^{key} ", text, flags=re.MULTILINE) for key, value in report.items() if value is not None)


@pytest.mark.parametrize("role", ["decoder", "encoder"])
def test_info_describes_exported_file(cvae, trained, role):
    path = trained["labels"] / f"{role}.onnx"
    props = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    runtime = {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
    expected = {"file": str(path), "bytes": path.stat().st_size, **json.loads(props["cvae"]), "onnxruntime": runtime}
    assert cvae("info", path, "--json").json == expected
    assert f"{path.stat().st_size}" in cvae("info", path).out


def test_info_escapes_control_characters_in_the_config(cvae, trained):
    shutil.copytree(trained["plain"], "run")
    config = json.loads(Path("run/config.json").read_text())
    config["training"]["data"] = "folder:\x1b[2J\u202e\ud800"
    Path("run/config.json").write_text(json.dumps(config))
    result = cvae("info", "run")
    assert result.code in (0, 1) and not set("\x1b\u202e\ud800") & set(result.out + result.err), result


@pytest.mark.parametrize(
    ("content", "words"), [(None, "it is a folder, a pipe or a device"), ("{", "line 1 is not JSON"), ("{}", "damaged")]
)
def test_info_says_why_metrics_cannot_be_read(cvae, trained, content, words):
    shutil.copytree(trained["plain"], "run")
    Path("run/metrics.jsonl").unlink()
    if content is None:
        Path("run/metrics.jsonl").mkdir()
    else:
        Path("run/metrics.jsonl").write_text('{"train": {}}' if content == "{}" else content)
    result = cvae("info", "run")
    assert result.code == 1 and result.err.count("\n") == 1 and "'run/metrics.jsonl'" in result.err
    assert words in result.err and "remove it to describe the run without metrics" in result.err


def make_three_runs(trained: dict[str, Path]) -> None:
    """Make three runs. The newest is runs/new, a conditional model; the others are unconditional."""
    for name, model, mtime in ("middle", "plain", 2_000), ("new", "labels", 3_000), ("old", "plain", 1_000):
        shutil.copytree(trained[model], Path("runs") / name)
        run = Path("runs") / name
        for path in (run / "model.safetensors", *(run / "last").glob("*.json")):
            os.utime(path, (mtime, mtime))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate"], {"model": "labels"}),
        (["interpolate"], {"model": "labels"}),
        (["reconstruct", "a.png"], {"model": "labels"}),
        (["info"], {"run": "runs/new"}),
        (["train", "--resume"], {"run": "runs/new"}),
    ],
    ids=str,
)
def test_command_reports_that_it_uses_the_newest_run(cvae, trained, image_files, arguments, expected):
    make_three_runs(trained)
    result = cvae(*arguments, "--json")
    assert expected.items() <= result.json.items()
    assert result.err.splitlines()[0] == "newest run: runs/new"


def test_export_uses_the_newest_run_and_lists_the_files_it_wrote(cvae, trained):
    make_three_runs(trained)
    before = Path("runs/old/decoder.onnx").read_bytes()
    result = cvae("export", "onnx", "--license", "CC0-1.0", "--json")
    assert result.err.splitlines()[0] == "newest run: runs/new"
    assert result.json["files"] == ["runs/new/decoder.onnx", "runs/new/encoder.onnx", "runs/new/README.md"]
    report = cvae("info", "runs/new/decoder.onnx", "--json").json
    assert (report["license"], report["name"]) == ("CC0-1.0", "new")
    assert Path("runs/old/decoder.onnx").read_bytes() == before
