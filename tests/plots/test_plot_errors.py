"""Errors of `cvae plot`: one line with the value and the fix, and no new files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from plot_helpers import ZOO

from cvae.errors import install_command

INVALID_COMMANDS = {
    "missing run": (2, "latent empty-folder", ["'empty-folder'"]),
    "misspelt name": (2, "losses runs-plian", ["'runs-plian'", "known"]),
    "unknown extension": (2, "latent {plain} --out x.pdf", ["'x.pdf'", "'.pdf'", ".svg"]),
    "missing extension": (2, "grid {labels} --out x", ["'x'", ".png"]),
    "file in place of a folder": (1, "grid {labels} --out text.png/x.png", ["'text.png/x.png'"]),
    "misspelt method": (2, "latent {plain} --method snet", ["'snet'"]),
    "perplexity too high": (2, "latent {plain} --limit 20", ["--perplexity 30", "are 20", "--perplexity 6"]),
    "too few images": (2, "latent {plain} --limit 2", ["2 codes", "--limit"]),
    "misspelt split": (2, "latent {plain} --split tset", ["'tset'"]),
    "misspelt data set": (2, "traverse {plain} --data digit", ["'digits'"]),
    "missing data file": (2, "latent {plain} --data npz:nowhere.npz", ["nowhere.npz"]),
    "identical images": (2, "latent {plain} --data npz:same.npz", ["40 codes are the same"]),
    "wrong number of channels": (2, "latent {plain} --data npz:colour.npz", ["3 channels", "takes 1"]),
    "wrong image size": (2, "traverse {plain} --size 16", ["(1, 16, 16)", "--size"]),
    "not an image": (1, "traverse {labels} --image text.png", ["'text.png'", "as an image"]),
    "missing image": (1, "traverse {labels} --image none.png", ["'none.png'"]),
    "reconstructions without encoder": (1, "reconstructions alone/decoder.onnx", ["encoder.onnx"]),
    "reconstructions of misspelt split": (2, "reconstructions {plain} --split tset", ["'tset'", "test"]),
    "image & seed": (2, "traverse {labels} --image text.png --seed 1", ["--image 'text.png'", "--seed 1", "give one"]),
    "unknown label": (2, "traverse {labels} --label x", ["'x'", "0, 1, 2"]),
    "label for unconditional model": (2, "traverse {plain} --label 1", ["without labels"]),
    "two labels": (2, "grid {labels} --label 1 --digit 2", ["'1'", "'2'", "pass only one"]),
    "latent is not 2-D": (2, "grid {plain}", ["8 latent", "cvae generate ", " -n 64, or: cvae plot traverse "]),
    "latent of a class is not 2-D": (2, "grid {labels} --label 3", ["8 latent", "cvae generate ", " -n 64 --label 3"]),
    "missing metrics": (1, "losses raw", ["metrics.jsonl", "cvae train"]),
    "missing sample images": (1, f"progress {ZOO}", ["samples/"]),
    "epoch without sample images": (2, "progress {plain} --epochs 1,99", ["99", "1, 2, 3"]),
    "invalid epochs": (2, "progress {plain} --epochs 1-5", ["'1-5'", "0,1,2"]),
    "not exported": (1, "latent raw", ["cvae export onnx raw"]),
    "traverse without encoder": (1, "traverse alone/decoder.onnx", ["encoder.onnx"]),
}  # fmt: skip


@pytest.mark.parametrize(("code", "command", "words"), INVALID_COMMANDS.values(), ids=INVALID_COMMANDS)
def test_plot_reports_invalid_arguments_in_one_line(assert_fails, trained, code, command, words):
    Path("empty-folder").mkdir()
    Path("text.png").write_text("this is not an image")
    np.savez("same.npz", train=np.zeros((2, 1, 8, 8), np.uint8), test=np.zeros((40, 1, 8, 8), np.uint8))
    np.savez("colour.npz", train=np.zeros((2, 3, 8, 8), np.uint8), test=np.zeros((40, 3, 8, 8), np.uint8))
    shutil.copytree(trained["plain"], "raw", ignore=shutil.ignore_patterns("*.onnx", "*.jsonl", "samples"))
    Path("alone").mkdir()
    shutil.copy(trained["plain"] / "decoder.onnx", "alone")
    assert_fails(code, words, *[word.format(**trained) for word in command.split()])


def test_plot_names_missing_extra(assert_fails, trained, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for command in (["latent"], ["traverse"], ["reconstructions"], ["nearest"], ["grid"], ["losses"], ["progress"]):
        assert_fails(1, [install_command("plot")], *command, trained["labels"])
