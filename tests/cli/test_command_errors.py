"""Errors of the commands that read a model: one line with the value and the fix, and nothing is written."""

import os
import re
import shutil
from pathlib import Path

import onnxruntime as ort
import pytest

needs_ort_without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime supports CUDA"
)
INVALID_COMMANDS = {
    "unknown digit": (2, "generate {labels} --digit 12", ["'12'", "0, 1, 2"]),
    "negative label": (2, "generate {labels} --label -1", ["'-1'", "0, 1, 2"]),
    "unknown label": (2, "generate {labels} --label x", ["'x'", "0, 1, 2"]),
    "label of unconditional model": (2, "generate {plain} --label x", ["'x'", "without labels"]),
    "two different labels": (2, "generate {labels} --label 1 --digit 2", ["'1'", "'2'", "pass only one"]),
    "label and grid": (2, "generate {labels} --label 1 --grid", ["--grid", "'1'", "remove --grid"]),
    "infinite temperature": (2, "generate {labels} --temperature inf", ["inf"]),
    "ONNX file of another program": (1, "generate foreign.onnx", ["'foreign.onnx'", "not exported by cvae"]),
    "text instead of model": (1, "generate text.onnx", ["'text.onnx'", "ONNX"]),
    "image instead of model": (2, "info seven.png", ["'seven.png' is an image, not a model"]),
    "encoder instead of decoder": (2, "generate {labels}/encoder.onnx", ["encoder.onnx", "decoder"]),
    "folder without run": (2, "generate empty-folder", ["'empty-folder'", "decoder.onnx"]),
    "output folder is a file": (1, "generate {labels} --out a-file/x.png", ["'a-file/x.png'"]),
    "unknown extension": (2, "generate {labels} --out x.foo", ["'x.foo'", "'.foo'", ".png"]),
    "missing extension": (2, "interpolate {labels} --digit 3 --out empty-folder", ["'empty-folder'", ".png"]),
    "unknown device": (2, "generate {labels} --device tpu", ["'tpu'", "cpu"]),
    "restyle to unknown label": (2, "restyle seven.png -m {labels} --to 10", ["'10'", "0, 1, 2"]),
    "restyle from unknown label": (2, "restyle seven.png -m {labels} --to 1 --digit x", ["'x'", "0, 1, 2"]),
    "restyle unconditional model to label": (2, "restyle seven.png -m {plain} --to 1", ["'1'", "without labels"]),
    "restyle unconditional model": (2, "restyle seven.png -m {plain}", ["without labels"]),
    "restyle invalid image": (1, "restyle text.png -m {labels} --to 1", ["'text.png'"]),
    "missing intermediate image": (1, "interpolate {plain} --via nowhere.png", ["'nowhere.png'"]),
    "unknown mode": (2, "interpolate {labels} --mode foo", ["'foo'", "'slerp'", "'lerp'"]),
    "missing start image": (1, "interpolate {plain} --from nowhere.png", ["'nowhere.png'"]),
    "missing end image": (1, "interpolate {plain} --to -3", ["'-3'"]),
    "invalid start image": (1, "interpolate {plain} --from text.png", ["'text.png'"]),
    "unknown end label": (2, "interpolate {labels} --digit 3 --to-label 10", ["'10'", "0, 1, 2"]),
    "end label of unconditional model": (2, "interpolate {plain} --to-label 3", ["'3'", "without labels"]),
    "unknown extension of strip": (2, "interpolate {plain} --out x.foo", ["'x.foo'", "'.foo'"]),
    "folder of GIF is a file": (1, "interpolate {plain} --out a-file/x.gif", ["'a-file/x.gif'"]),
    "reconstruct missing image": (1, "reconstruct nowhere.png -m {plain}", ["'nowhere.png'"]),
    "reconstruct invalid image": (1, "reconstruct seven.png text.png -m {plain}", ["'text.png'"]),
    "reconstruct folder": (1, "reconstruct empty-folder -m {plain}", ["'empty-folder'"]),
    "reconstruct with unknown label": (2, "reconstruct seven.png -m {labels} --digit 12", ["'12'", "0, 1, 2"]),
    "reconstruct with unexpected label": (2, "reconstruct seven.png -m {plain} --digit 1", ["'1'", "without labels"]),
    "info on ONNX file of another program": (1, "info foreign.onnx", ["'foreign.onnx'"]),
    "info on folder without run": (2, "info empty-folder", ["'empty-folder'", "config.json"]),
    "misspelt format": (2, "export onxn {plain}", ["'onxn'", "'onnx'"]),
    "export without any run": (2, "export onnx", ["'runs'", "cvae train"]),
    "export folder without run": (2, "export onnx empty-folder", ["'empty-folder'"]),
    "export ONNX file of another program": (1, "export onnx foreign.onnx", ["foreign.onnx"]),
    "onnx exporter has no --out": (2, "export onnx {plain} --out elsewhere", ["exporter 'onnx'", "'out'"]),
    "convert ONNX file of another program": (1, "export triton foreign.onnx", ["foreign.onnx", "not exported by cvae"]),
    "triton exporter has no --license": (2, "export triton {plain} --license MIT", ["exporter 'triton'", "'license'"]),
}  # fmt: skip


@pytest.mark.parametrize(("code", "command", "words"), INVALID_COMMANDS.values(), ids=INVALID_COMMANDS)
def test_invalid_arguments_are_reported_in_one_line(assert_fails, wrong_files, trained, code, command, words):
    assert_fails(code, words, *[word.format(**trained) for word in command.split()])


@needs_ort_without_cuda
def test_generate_explains_how_to_install_missing_cuda_provider(assert_fails, trained):
    assert_fails(
        2,
        ["'cuda'", "pip uninstall -y cvae-onnx onnxruntime", "onnxruntime-gpu"],
        "generate",
        trained["plain"],
        "--device=cuda",
    )


@pytest.mark.parametrize("command", ["generate", "info", "interpolate", "export onnx"])
def test_command_suggests_similar_run_for_unknown_name(assert_fails, trained, command):
    shutil.copytree(trained["plain"], "runs/digits-mlp")
    assert_fails(2, ["'digits-mpl'", "'digits-mlp'"], *command.split(), "digits-mpl")


def test_generate_suggests_training_when_there_is_no_model(assert_fails, monkeypatch):
    monkeypatch.setattr("cvae.model_zoo.models", dict)
    assert_fails(2, ["cvae train"], "generate", "--digit", "7")


def test_interpolation_from_image_to_seed_uses_the_class_of_the_image(cvae, trained, wrong_files):
    report = cvae("interpolate", trained["labels"], "--from", "seven.png", "--json").json
    best = cvae("reconstruct", "seven.png", "-m", trained["labels"], "--json").json["labels"]
    assert report["labels"] == [best * 2]


def test_command_suggests_export_for_run_without_onnx_files(assert_fails, trained, wrong_files):
    shutil.copytree(trained["plain"], "runs/raw", ignore=shutil.ignore_patterns("*.onnx"))
    for command in (["generate"], ["generate", "raw"], ["interpolate", "runs/raw"], ["reconstruct", "seven.png"]):
        assert_fails(1, ["cvae export onnx runs/raw"], *command)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_generate_reports_read_only_folder(assert_fails, trained):
    Path("locked").mkdir(mode=0o500)
    assert_fails(1, ["'locked/x.png'", "ermission"], "generate", trained["plain"], "--out", "locked/x.png")


USAGE_ERRORS = {
    "unknown command": "bogus",
    "unknown flag": "generate {plain} --bogus",
    "not a number": "generate {plain} -n three",
    "zero images": "generate {plain} -n 0",
    "negative seed": "generate {plain} --seed -1",
    "negative temperature": "generate {plain} --temperature -1",
    "single step": "interpolate {plain} --steps 1",
    "zero frames per second": "interpolate {plain} --fps 0",
    "unexpected argument": "zoo list mnist",
    "missing images": "reconstruct",
    "missing format": "export",
    "invalid number of epochs": "train --epochs many",
}


@pytest.mark.parametrize("command", USAGE_ERRORS.values(), ids=USAGE_ERRORS)
def test_invalid_command_line_exits_with_code_2_and_writes_nothing(cvae, trained, command):
    result = cvae(*[word.format(**trained) for word in command.split()])
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err and not list(Path().iterdir())
    assert re.fullmatch(r"cvae: error: .*; see cvae( [a-z]+)* --help\n", result.err)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --epochs abc", ["--epochs 'abc' is not an integer; see cvae train --help"]),
        ("train --milestone 1 --milestone x", ["--milestone 'x' is not an integer; see cvae train --help"]),
        ("generate --temperature x", ["--temperature 'x' is not a number; see cvae generate --help"]),
        ("generate -n 0", ["-n 0 is out of range; it must be at least 1; see cvae generate --help"]),
        ("generate --temperature", ["--temperature needs a value; see cvae generate --help"]),
        (
            "plot latent --perplexitty 3",
            ["--perplexitty (did you mean --perplexity", "see cvae plot latent --help"],
        ),
        ("detect score", ["PATH", "see cvae detect score --help"]),
        ("plot bogus", ["'bogus'", "see cvae plot --help"]),
        ("generate --count 5", ["no option --count (did you mean -n?)"]),
        ("generate --class 7", ["did you mean --label?"]),
        ("train --images x.npy", ["--data folder:PATH or --data npz:PATH"]),
        ("info --count 5", ["there is no option --count"]),
        ("detect circle.png", ["no such command 'circle.png'; the commands are fit, score; see cvae detect --help"]),
        ("plot latnt", ["no such command 'latnt' (did you mean 'latent'?); see cvae plot --help"]),
        ("interpolate --steps 5000", ["--steps 5000 is out of range; it must be at least 2 and at most 1000; see"]),
        ("bogus", ["'bogus'", "see cvae --help"]),
    ],
)
def test_usage_error_quotes_value_and_refers_to_help(cvae, command, words):
    result = cvae(*command.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("cvae: error: ") and [word for word in words if word not in result.err] == [], (
        result.err
    )


def test_command_without_subcommand_prints_help(cvae):
    result = cvae("plot")
    assert result.code in (0, 2) and "Usage: cvae plot" in result.out + result.err


@pytest.mark.parametrize("out", ["x.png", "x.npy", "x.npz", "x"])
def test_generate_rejects_huge_number_of_images(assert_fails, trained, out):
    huge = str(10**20)
    assert_fails(2, ["at most"], "generate", trained["labels"], "-n", huge, "--out", out)
