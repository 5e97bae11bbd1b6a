"""Errors of `cvae train`: one line with the value and the fix, and no new files."""

import shutil

import pytest
import torch
from cli_helpers import QUICK_TRAIN

from cvae import registry

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
INVALID_FLAGS = {
    "unknown architecture": (2, "--arch resnett", ["'resnett'", "'resnet'"]),
    "unknown likelihood": (2, "--likelihood gausian", ["'gausian'", "'gaussian'"]),
    "unknown prior": (2, "--prior nromal", ["'nromal'", "normal"]),
    "unknown objective": (2, "--objective elboo", ["'elboo'", "'elbo'"]),
    "unknown conditioning": (2, "--conditional --conditioning flim", ["'flim'", "film"]),
    "unknown data set": (2, "--data mnsit", ["'mnsit'", "'mnist'"]),
    "missing folder": (2, "--data folder:nowhere", ["folder:nowhere", "no such folder"]),
    "empty folder": (2, "--data folder:empty-folder", ["'empty-folder'", ".png"]),
    "path without prefix": (2, "--data empty-folder", ["'empty-folder'", "folder:empty-folder"]),
    "zero epochs": (2, "--epochs 0", ["--epochs 0", "at least 1"]),
    "zero batch size": (2, "--batch-size 0", ["--batch-size 0", "at least 1"]),
    "zero latent dimensions": (2, "--latent-dim 0", ["--latent-dim 0", "at least 1"]),
    "too many latent dimensions": (2, "--latent-dim 65537", ["65537", "65536"]),
    "malformed size": (2, "--size 48*80", ["'48*80'", "48x80"]),
    "small size": (2, "--size 3", ["size 3", "4 to 4096"]),
    "negative learning rate": (2, "--lr -1", ["--lr -1", "more than 0"]),
    "NaN learning rate": (2, "--lr nan", ["--lr nan", "more than 0"]),
    "negative beta": (2, "--beta -1", ["beta=-1", "at least 0"]),
    "negative seed": (2, "--seed -1", ["--seed -1", "4294967295"]),
    "validation fraction of 1": (2, "--validation 1", ["--validation 1", "less than 1"]),
    "EMA decay of 1": (2, "--ema 1", ["--ema 1", "less than 1"]),
    "unknown schedule": (2, "--schedule cosin", ["'cosin'", "'cosine'"]),
    "milestone without step schedule": (2, "--milestone 5", ["milestones require schedule 'step'", "'cosine'"]),
    "milestone at epoch 0": (2, "--schedule step --milestone 0", ["--milestone 0", "at least 1"]),
    "unknown excluded class": (2, "--exclude-class 11", ["--exclude-class '11'", "'1'"]),
    "all classes excluded": (2, " ".join(f"--exclude-class {i}" for i in range(10)), ["leaves no images in train"]),
    "unknown precision": (2, "--precision fp17", ["'fp17'", "'fp16'"]),
    "fp16 on cpu": (2, "--precision fp16 --device cpu", ["'fp16'", "bf16"]),
    "unknown device": (2, "--device gpu", ["'gpu'", "did you mean 'cuda'?"]),
    "misspelt recipe": (2, "--recipe mnist-resnet", ["'mnist-resnet'", "'mnist-resnet-flow'", ".toml"]),
    "recipe that starts from a missing run": (
        2,
        "--recipe mnist-resnet-flow",
        ["'mnist-resnet-flow-iwae'", "--recipe mnist-resnet-flow-iwae"],
    ),
    "missing recipe": (2, "--recipe nowhere.toml", ["'nowhere.toml'"]),
    "unknown key in recipe": (2, "--recipe unknown-key.toml", ["unknown-key.toml", "'epochz'", "'epochs'"]),
    "wrong type in recipe": (2, "--recipe wrong-type.toml", ["wrong-type.toml", "epochs", "'3'", "int"]),
    "invalid TOML": (2, "--recipe invalid.toml", ["'invalid.toml'", "line 1"]),
    "assignment without value": (2, "--set arch.hidden", ["'arch.hidden'", "PART.OPTION=VALUE"]),
    "assignment to unknown part": (2, "--set archs.hidden=3", ["'archs.hidden=3'", "arch, "]),
    "assignment to unknown option": (2, "--arch mlp --set arch.hiden=[3]", ["'hiden'", "'hidden'"]),
    "assignment of wrong type": (2, "--arch mlp --set arch.hidden=3", ["hidden=3", "[400]"]),
    "assignment to unused part": (2, "--set conditioning.x=1", ["conditioning"]),
    "no run to resume": (2, "--resume", ["'runs'", "--out"]),
    "resume missing run": (2, "--resume --out nowhere", ["there is no run 'nowhere'", "cvae runs"]),
}
INVALID_OPTIONS = {
    "NaN beta": ("--arch mlp --set objective.beta=NaN", ["beta=nan", "at least 0"]),
    "large size": ("--arch mlp --size 5000", ["size 5000", "4096"]),
    "resume with fewer epochs": ("--resume --out run --epochs 5", ["20 epochs, more than 5"]),
    "misspelt conditioning of unconditional model": ("--conditioning flim", ["'flim'", "'film'"]),
    "no hidden layers": ("--arch mlp --set arch.hidden=[]", ["hidden=()"]),
    "list of strings": ('--arch mlp --set arch.hidden=["a"]', ["hidden=['a']"]),
    "list of fractions": ("--arch mlp --set arch.hidden=[1.5]", ["hidden=[1.5]"]),
    "zero hidden units": ("--arch mlp --set arch.hidden=[0]", ["hidden=(0,)"]),
    "negative hidden units": ("--arch mlp --set arch.hidden=[-3]", ["hidden=(-3,)"]),
    "negative width": ("--arch conv --set arch.width=-1", ["width=-1"]),
    "dropout above one": ("--arch conv --set arch.dropout=2.0", ["dropout=2.0"]),
    "zero sigma": ("--arch mlp --likelihood gaussian --set likelihood.sigma=0.0", ["sigma=0.0"]),
    "negative beta": ("--arch mlp --set objective.beta=-1.0", ["beta=-1.0", "at least 0"]),
    "resume with missing recipe": ("--resume --out run --recipe nowhere.toml", ["'nowhere.toml'"]),
    "resume with --set": ("--resume --out run --set arch.hidden=[1]", ["--set arch.hidden=[1]", "[400]", "--epochs"]),
}


@pytest.mark.parametrize(("code", "flags", "words"), INVALID_FLAGS.values(), ids=INVALID_FLAGS)
def test_train_rejects_invalid_flags(assert_fails, wrong_files, code, flags, words):
    assert_fails(code, words, "train", *flags.split())


def test_error_for_unknown_data_set_lists_known_data_sets(cvae):
    message = cvae("train", "--data", "photos").err
    assert "digits, mnist-small" in message and "svhn" in message and "arrays" not in message


@pytest.mark.integration
def test_train_reports_folder_that_cannot_be_created(assert_fails, wrong_files):
    assert_fails(1, ["'a-file/run"], "train", "--arch", "mlp", "--limit", "64", "--out", "a-file/run")


@pytest.mark.parametrize(("flags", "words"), INVALID_OPTIONS.values(), ids=INVALID_OPTIONS)
def test_train_rejects_invalid_options(assert_fails, trained, flags, words):
    shutil.copytree(trained["plain"], "run")
    short = [] if "--resume" in flags else ["--epochs", "1", "--limit", "64"]
    assert_fails(2, words, "train", *short, *flags.split())


@needs_no_cuda
def test_train_rejects_device_that_is_not_available(assert_fails):
    assert_fails(2, ["'cuda'", "leave it out"], "train", "--device", "cuda")


def test_train_neither_overwrites_nor_changes_a_run(assert_fails, trained):
    shutil.copytree(trained["plain"], "run")
    assert_fails(2, ["'run'", "--resume"], *QUICK_TRAIN, "--out", "run")
    assert_fails(2, ["--lr 0.1", "--lr 0.005", "--epochs"], "train", "--resume", "--out", "run", "--lr", "0.1")


def test_beta_requires_objective_with_option_beta(assert_fails, monkeypatch):
    monkeypatch.setattr(registry.OBJECTIVES, "_registered", {"without-beta": lambda model, image, label, weight: None})
    assert_fails(2, ["'beta'", "'without-beta'", "it has none"], "train", "--objective", "without-beta", "--beta", "2")
