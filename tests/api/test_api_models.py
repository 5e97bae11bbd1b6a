"""`cvae.evaluate` and `cvae.export`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import cvae as package
from cvae import model_zoo
from cvae.errors import UsageError


def test_evaluate_returns_what_the_command_prints(cvae, trained):
    notes: list[str] = []
    report = package.evaluate(trained["plain"], limit=20, samples=2, generated=20, device="cpu", note=notes.append)
    command = [
        "evaluate",
        trained["plain"],
        "--limit",
        20,
        "--samples",
        2,
        "--generated",
        20,
        "--device",
        "cpu",
        "--json",
    ]
    result = cvae(*command)
    assert report == result.json and notes == result.err.splitlines() != []


def test_evaluate_accepts_an_open_model(in_tmp):
    np.savez("set.npz", train=np.zeros((30, 28, 28), np.uint8), test=np.zeros((1, 28, 28), np.uint8))
    model = package.load("mnist-resnet-flow")
    options = {"data": "npz:set.npz", "generated": 0, "exported": True}
    reports = [package.evaluate(name, **options) for name in (model, "mnist-resnet-flow")]
    for report in reports:
        del report["runtime"]["milliseconds_per_image"]
    assert reports[0] == reports[1]
    assert model.path == model_zoo.models()["mnist-resnet-flow"]


@pytest.mark.integration
def test_export_returns_the_paths_of_the_files(trained, in_tmp):
    shutil.copytree(trained["plain"], "run")
    notes: list[str] = []
    paths = package.export("onnx", "run", half=True, license="MIT", note=notes.append)
    assert paths == [Path("run") / name for name in ("decoder.onnx", "encoder.onnx", "README.md")] and len(notes) == 2
    assert package.load("run").spec.license == "MIT"
    (model,) = {path.parts[1] for path in package.export("triton", "run", out="triton") if len(path.parts) > 2}
    assert model == "run"


def test_export_rejects_unknown_formats_and_options(in_tmp):
    for arguments, options, words in [
        (("onnxx",), {}, "'onnx'"),
        (("web",), {"outt": "x"}, "'out'"),
        (("onnx", model_zoo.DEFAULT), {}, "already exported"),
        (("onnx",), {}, "no run"),
    ]:
        with pytest.raises(UsageError, match=words):
            package.export(*arguments, **options)
