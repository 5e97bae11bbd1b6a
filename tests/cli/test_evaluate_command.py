"""`cvae evaluate`: its report, and the run or the files that it evaluates."""

import re
import shutil
from pathlib import Path

import pytest
from cli_helpers import QUICK_TRAIN


def test_evaluate_prints_every_metric(cvae, trained):
    report = cvae("evaluate", trained["labels"], "--limit", 50, "--samples", 3, "--json").json
    assert report["model"] == "labels" and report["data"] == "digits" and report["protocol"]["images"] == 50
    assert set(report) == {
        "model",
        "backend",
        "data",
        "protocol",
        "bound",
        "importance_weighted",
        "reconstruction",
        "labels",
    }
    result = cvae("evaluate", trained["labels"], "--limit", 50, "--samples", 3)
    assert result.code == 0
    *notes, last = result.err.splitlines()
    assert last == (
        "there is no feature extractor for 'digits', so distances are skipped; "
        "choose one with --features trained, MODULE:CALLABLE or PATH.onnx"
    )
    assert len(notes) == 1 and notes[0].startswith("digits: ")
    for name in ("nats", "standard error", "active units", "psnr", "ssim", "accuracy of the bound as a classifier"):
        assert re.search(rf"^  {name} +[-0-9.]+$", result.out, flags=re.MULTILINE)
    assert f"{report['importance_weighted']['nats']:.4f}" in result.out  # the same value as in the JSON


def test_evaluate_reports_that_it_uses_the_newest_run(cvae, trained):
    shutil.copytree(trained["plain"], "runs/mine")
    result = cvae("evaluate", "--limit", 5, "--split", "validation", "--json")
    assert result.json["model"] == "mine" and result.json["protocol"]["split"] == "validation"
    assert "newest run: runs/mine" in result.err


@pytest.mark.integration
def test_evaluate_accepts_exported_files_without_run(cvae, in_tmp):
    assert cvae(*QUICK_TRAIN, "--prior", "normal", "--likelihood", "bernoulli", "--out", "run").code == 0
    assert cvae("export", "onnx", "run").code == 0
    run_report = cvae("evaluate", "run", "--json").json
    for arguments in (["run", "--exported"], ["run/decoder.onnx"]):
        report = cvae("evaluate", *arguments, "--json").json
        assert report["backend"].startswith("onnxruntime")
        assert report["bound"] == pytest.approx(run_report["bound"], rel=1e-4)
        assert report["runtime"]["decoder_megabytes"] == Path("run/decoder.onnx").stat().st_size / 1e6
        assert report["runtime"]["milliseconds_per_image"] > 0 and "runtime" not in run_report
    Path("alone").mkdir()
    for name in ("decoder.onnx", "encoder.onnx"):
        shutil.copy(Path("run") / name, "alone")
    assert cvae("evaluate", "alone/decoder.onnx", "--json").json["bound"] == pytest.approx(
        run_report["bound"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--split", "tset"], 2, "'tset'"),
        (["--data", "digit"], 2, "'digits'"),
        (["--binarize", "yes"], 2, "'yes'"),
        (["--features", "mnits"], 2, "'mnits'"),
        (["--precision", "bf61"], 2, "'bf61'"),
        (["--exported", "--precision", "bf16"], 2, "--precision bf16"),
        (["--device", "tpu"], 2, "'tpu'"),
        (["--lpips"], 2, "LPIPS takes grey or colour images of at least 16x16 pixels"),  # the digits have 8x8
        (["--data", "npz:nowhere.npz"], 2, "nowhere.npz"),
    ],
)
def test_evaluate_rejects_invalid_arguments(cvae, trained, flags, code, word):
    result = cvae("evaluate", trained["plain"], *flags)
    assert result.code == code and result.out == ""
    assert word in result.err and "Traceback" not in result.err
