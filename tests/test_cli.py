"""The command line: what it draws, compared with torch; what it prints; and how it refuses, in one line."""

import dataclasses
import inspect
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image, ImageSequence

import cvae as package
from cvae import registry
from cvae.cli import app
from cvae.cli.train import train
from cvae.config import SHORT_FLAGS, TrainConfig, flag
from cvae.engine import load_model

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
SUBCOMMANDS = [["export", "onnx"]] + [
    [str(group.name), command.name or command.callback.__name__]
    for group in app.registered_groups
    if group.typer_instance
    for command in group.typer_instance.registered_commands
    if command.callback
]
QUICK = ["train", "--arch", "mlp", "--epochs", "1", "--limit", "64"]


def noise(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


def in_torch(run: Path, role: str, array: np.ndarray, labels: list[int] | None) -> np.ndarray:
    """What torch decodes from noise, or the mean that it encodes images as."""
    with torch.inference_mode():
        result = getattr(load_model(run)[0], role)(
            torch.from_numpy(array), None if labels is None else torch.tensor(labels)
        )
    return (result if role == "decode" else result[0]).numpy()


def panels(path: str | Path, across: int, down: int) -> np.ndarray:
    """The pictures (N, 8, 8) on a sheet that must have this many places, with grey lines between, legibly large."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    factor, rest = divmod(pixels.shape[1], across * 9 - 1)
    assert rest == 0 and pixels.shape[0] == factor * (down * 9 - 1) and max(pixels.shape) >= 280
    sheet = pixels[::factor, ::factor]
    assert np.array_equal(pixels, np.kron(sheet, np.ones((factor, factor), int)))
    assert set(sheet[8::9].ravel()) | set(sheet[:, 8::9].ravel()) <= {128}
    places = np.pad(sheet, ((0, 1), (0, 1))).reshape(down, 9, across, 9).transpose(0, 2, 1, 3)
    return places[:, :, :8, :8].reshape(-1, 8, 8)


def shown(found: np.ndarray, images: np.ndarray) -> bool:
    """Whether the panels show these images (N, 1, 8, 8), rounded to bytes."""
    return found.shape[0] == len(images) and bool(np.abs(found - images[:, 0] * 255).max() <= 0.51)


@pytest.fixture
def pictures(in_tmp) -> list[Path]:
    """Two grey pictures of the models' size."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(f"{name}.png")
    return [Path("a.png"), Path("b.png")]


def originals(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path))[None] / np.float32(255) for path in paths])


# -- help --------------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_promised():
    promised = "train tune evaluate generate interpolate reconstruct restyle info parts export"
    assert set(promised.split()) <= set(COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + SUBCOMMANDS, ids=" ".join)
def test_every_command_helps_with_an_example(cvae, command, flag):
    done = cvae(*command, flag)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"Example: cvae \w+", done.out)


def test_the_help_of_all_lists_the_commands(cvae):
    for arguments, code in (["--help"], 0), ([], 2):
        done = cvae(*arguments)
        assert done.code == code
        assert all(re.search(rf"^  {name}  +\S", done.out + done.err, flags=re.MULTILINE) for name in COMMANDS)


def test_the_version_is_told(cvae):
    assert cvae("--version") == (0, f"cvae-onnx {package.__version__}\n", "")


@pytest.mark.parametrize("start", [["-m", "cvae"], None], ids=["python -m cvae", "cvae"])
def test_it_runs_as_a_module_and_as_a_script(trained, tmp_path, start):
    script = Path(sys.executable).with_name("cvae")
    command = [script] if start is None else [sys.executable, "-W", "error", *start]

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, args)], cwd=tmp_path, capture_output=True, text=True)

    done = run("generate", trained["labels"], "--digit", 7, "--seed", 1, "--out", "seven.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, "seven.png (1 image, seed 1)\n", "")
    image = in_torch(trained["labels"], "decode", noise(1, 1), [7])[0, 0]
    large = Image.fromarray(np.rint(image * 255).astype(np.uint8)).resize((280, 280), Image.Resampling.LANCZOS)
    with Image.open(tmp_path / "seven.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(large)).max() <= 2  # smooth, unlike below
    done = run("generate", trained["labels"], "--digit", 12)
    assert done.returncode == 2 and done.stdout == "" and re.fullmatch(r"cvae: error: .*'12'.*\n", done.stderr)


# -- generate ----------------------------------------------------------------------------------------------------------

DIGITS = list(range(10))


@pytest.mark.parametrize(
    ("kind", "flags", "across", "down", "labels"),
    [
        ("labels", ["--digit", "7"], 1, 1, [7]),
        ("labels", ["--label", "3", "-n", "5"], 3, 2, [3] * 5),
        ("labels", [], 4, 3, DIGITS),
        ("labels", ["-n", "2"], 2, 10, [k for k in DIGITS for _ in range(2)]),
        ("labels", ["--grid"], 8, 10, [k for k in DIGITS for _ in range(8)]),
        ("labels", ["--grid", "-n", "3"], 3, 10, [k for k in DIGITS for _ in range(3)]),
        ("plain", [], 1, 1, [None]),
        ("plain", ["-n", "6"], 3, 2, [None] * 6),
        ("plain", ["--grid"], 8, 8, [None] * 64),
    ],
    ids=str,
)
def test_generate_draws_what_torch_decodes_from_the_seeds_noise(cvae, trained, kind, flags, across, down, labels):
    facts = cvae("generate", trained[kind], *flags, "--seed", 5, "--json").facts
    names = None if kind == "plain" else [str(label) for label in labels]
    assert facts == {"out": "generated.png", "model": kind, "images": len(labels), "labels": names, "seed": 5}
    found = panels("generated.png", across, down)
    images = in_torch(trained[kind], "decode", noise(5, len(labels)), None if kind == "plain" else labels)
    assert shown(found[: len(labels)], images) and (found[len(labels) :] == 128).all()
    assert found[: len(labels)].std(axis=(1, 2)).min() > 20


def test_classes_differ(cvae, trained):
    cvae("generate", trained["labels"], "--grid", "--seed", 0)
    rows = panels("generated.png", 8, 10).reshape(10, 8, 8, 8).mean(axis=1)
    assert all(np.abs(a - b).max() > 30 for i, a in enumerate(rows) for b in rows[:i])


def test_a_seed_gives_the_same_bytes_and_another_others(cvae, trained):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        assert cvae("generate", trained["plain"], "-n", 4, "--seed", seed, "--out", f"{name}.png").code == 0
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_seed_that_was_drawn_is_told_and_repeats_the_picture(cvae, trained):
    first, second = (cvae("generate", trained["plain"], "--json").facts["seed"] for _ in range(2))
    assert first != second
    drawn = Path("generated.png").read_bytes()
    assert str(second) in cvae("generate", trained["plain"], "--seed", second, "--out", "again.png").out
    assert Path("again.png").read_bytes() == drawn


def test_digit_is_label(cvae, trained):
    for flags in (["--digit", "7"], ["--label", "7"], ["--digit", "7", "--label", "7"]):
        cvae("generate", trained["labels"], *flags, "--seed", 3, "--out", f"{len(flags)}{flags[0]}.png")
    first, *others = [path.read_bytes() for path in Path().iterdir()]
    assert len(others) == 2 and all(other == first for other in others)


def test_temperature_zero_draws_one_image_only(cvae, trained):
    cvae("generate", trained["labels"], "--digit", 3, "-n", 4, "--temperature", 0)
    found = panels("generated.png", 2, 2)
    assert shown(found, in_torch(trained["labels"], "decode", np.zeros((4, 8), np.float32), [3] * 4))


@pytest.mark.parametrize(("ending", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP")])
def test_the_ending_says_the_format(cvae, trained, ending, kind):
    assert cvae("generate", trained["plain"], "--out", f"new/folder/x.{ending}").code == 0
    with Image.open(f"new/folder/x.{ending}") as picture:
        assert picture.format == kind and picture.size == (280, 280)


def test_a_picture_that_is_there_is_replaced(cvae, trained):
    Path("generated.png").write_text("old")
    assert cvae("generate", trained["plain"]).code == 0
    assert panels("generated.png", 1, 1).std() > 20 and [path.name for path in Path().iterdir()] == ["generated.png"]


# -- interpolate, reconstruct ------------------------------------------------------------------------------------------


def test_a_strip_goes_from_seed_to_seed(cvae, trained):
    facts = cvae("interpolate", trained["labels"], "--digit", 3, "--from", 4, "--to", 9, "--steps", 6, "--json").facts
    assert facts["steps"] == 6 and (facts["stops"], facts["mode"]) == (["4", "9"], "slerp")
    found = panels("interpolation.png", 6, 1)
    ends = np.concatenate([noise(4, 1), noise(9, 1)])
    assert shown(found[[0, -1]], in_torch(trained["labels"], "decode", ends, [3, 3]))
    assert all((a != b).any() for a, b in zip(found[1:], found[:-1], strict=True))


def test_a_strip_goes_from_label_to_label(cvae, trained):
    cvae("interpolate", trained["labels"], "--digit", 3, "--to-label", 8, "--to", 0, "--steps", 3)
    ends = in_torch(trained["labels"], "decode", np.repeat(noise(0, 1), 2, axis=0), [3, 8])
    assert shown(panels("interpolation.png", 3, 1), np.stack([ends[0], ends.mean(0), ends[1]]))


def test_a_strip_goes_from_picture_to_picture(cvae, trained, pictures):
    a, b = pictures
    assert cvae("interpolate", trained["plain"], "--from", a, "--to", b, "--steps", 4).code == 0
    code = in_torch(trained["plain"], "encode", originals(pictures), None)
    assert shown(panels("interpolation.png", 4, 1)[[0, -1]], in_torch(trained["plain"], "decode", code, None))


def test_without_a_label_there_is_a_row_for_each_class(cvae, trained):
    assert "10 classes" in cvae("interpolate", trained["labels"], "--steps", 3).err
    starts = panels("interpolation.png", 3, 10)[::3]
    assert shown(starts, in_torch(trained["labels"], "decode", np.repeat(noise(0, 1), 10, axis=0), DIGITS))


def test_the_modes_draw_different_ways(cvae, trained):
    for mode in ("slerp", "lerp"):
        cvae("interpolate", trained["plain"], "--mode", mode, "--steps", 3, "--out", f"{mode}.png")
    slerp, lerp = panels("slerp.png", 3, 1), panels("lerp.png", 3, 1)
    assert np.array_equal(slerp[[0, 2]], lerp[[0, 2]]) and not np.array_equal(slerp[1], lerp[1])
    middle = noise(0, 1) / 2 + noise(1, 1) / 2
    assert shown(lerp[[1]], in_torch(trained["plain"], "decode", middle, None))


@pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (50, 20)])
def test_an_animation_runs_there_and_back(cvae, trained, fps, milliseconds):
    assert cvae("interpolate", trained["plain"], "--steps", 5, "--fps", fps, "--out", "loop.gif").code == 0
    cvae("interpolate", trained["plain"], "--steps", 5, "--out", "strip.png")
    with Image.open("loop.gif") as gif:
        frames = [(np.asarray(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert [duration for _, duration in frames] == [milliseconds] * 8
    strip = panels("strip.png", 5, 1)
    assert all(
        np.array_equal(frame, np.kron(strip[i], np.ones((35, 35))))
        for (frame, _), i in zip(frames, [0, 1, 2, 3, 4, 3, 2, 1], strict=True)
    )


def test_an_animation_that_ends_where_it_began_goes_round(cvae, trained):
    flags = ["--from", 4, "--via", 9, "--via", 2, "--to", 4, "--steps", 3]
    assert cvae("interpolate", trained["plain"], *flags, "--out", "loop.gif").code == 0
    facts = cvae("interpolate", trained["plain"], *flags, "--out", "strip.png", "--json").facts
    assert facts["steps"] == 7 and facts["stops"] == ["4", "9", "2", "4"]
    strip = panels("strip.png", 7, 1)
    stops = np.concatenate([noise(4, 1), noise(9, 1), noise(2, 1), noise(4, 1)])
    assert shown(strip[::2], in_torch(trained["plain"], "decode", stops, None))
    with Image.open("loop.gif") as gif:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == 6  # the last stop is the first again
    assert all(np.array_equal(frame, np.kron(strip[i], np.ones((35, 35)))) for i, frame in enumerate(frames))


def test_stops_on_the_way_have_the_first_label(cvae, trained):
    flags = ["--digit", 3, "--to-label", 8, "--via", 5, "--steps", 2]
    assert cvae("interpolate", trained["labels"], *flags).code == 0
    stops = np.concatenate([noise(0, 1), noise(5, 1), noise(1, 1)])
    assert shown(panels("interpolation.png", 3, 1), in_torch(trained["labels"], "decode", stops, [3, 3, 8]))


def test_restyle_keeps_the_code_and_changes_the_label(cvae, trained, pictures):
    run, (a, b) = trained["labels"], pictures
    facts = cvae("restyle", a, b, "--model", run, "--digit", 4, "--to", 7, "--to", 9, "--json").facts
    assert (facts["labels"], facts["to"]) == (["4", "4"], ["7", "9"])
    code = in_torch(run, "encode", originals(pictures), [4, 4])
    drawn = [in_torch(run, "decode", code, [label, label]) for label in (7, 9)]
    assert shown(panels("restyled.png", 2, 3), np.concatenate([originals(pictures), *drawn]))


def test_restyle_draws_every_label_when_none_is_named_and_finds_that_of_the_picture(cvae, trained, pictures):
    run, (a, _) = trained["labels"], pictures
    done = cvae("restyle", a, "--model", run)
    assert done.code == 0 and f"{a}: no label given" in done.err
    found = panels("restyled.png", 11, 1)  # beside each other, for one picture
    best = cvae("reconstruct", a, "--model", run, "--json").facts["labels"]
    code = in_torch(run, "encode", originals(pictures)[:1], [int(best[0])])
    assert shown(found[1:], in_torch(run, "decode", np.repeat(code, 10, axis=0), DIGITS))


@pytest.mark.parametrize(("kind", "flags", "labels"), [("plain", [], None), ("labels", ["--digit", "4"], [4, 4])])
def test_reconstruct_shows_originals_above_what_torch_makes_of_them(cvae, trained, pictures, kind, flags, labels):
    facts = cvae("reconstruct", *pictures, "--model", trained[kind], *flags, "--json").facts
    images = originals(pictures)
    again = in_torch(trained[kind], "decode", in_torch(trained[kind], "encode", images, labels), labels)
    assert shown(panels("reconstruction.png", 2, 2), np.concatenate([images, again]))
    assert facts["labels"] == (labels and ["4", "4"])
    assert facts["mean_squared_error"] == pytest.approx(((again - images) ** 2).mean(axis=(1, 2, 3)), abs=2e-6)


def test_without_a_label_the_one_of_the_fewest_nats_is_taken_and_told(cvae, trained, pictures):
    done = cvae("reconstruct", *pictures, "-m", trained["labels"], "--json")
    images, model = originals(pictures), package.load(trained["labels"])
    nats = []
    for k in DIGITS:
        again = in_torch(trained["labels"], "decode", in_torch(trained["labels"], "encode", images, [k, k]), [k, k])
        mean, std = model.encode(images, k)
        rate = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
        nats.append(((again - images) ** 2).sum(axis=(1, 2, 3)) / (2 * model.spec.sigma**2) + rate.sum(1))
    best = [str(k) for k in np.argmin(nats, axis=0)]
    assert done.facts["labels"] == best
    assert all(f"{path}: no label given; '{label}'" in done.err for path, label in zip(pictures, best, strict=True))


@pytest.mark.parametrize(
    "command",
    [
        "reconstruct {picture} -m {model}",
        "restyle {picture} --digit 4 -m {model}",
        "interpolate {model} --from {picture} --digit 4",
        "plot traverse {model} --image {picture} --label 4",
    ],
)
def test_a_picture_that_is_made_to_fit_is_named(cvae, trained, pictures, command):
    Image.new("L", (20, 30), 100).save("large.png")
    Image.new("RGB", (8, 8), "red").save("red.png")
    for name, words in {"large.png": "20x30 pixels", "red.png": "8x8 pixels in colour", str(pictures[0]): None}.items():
        done = cvae(*command.format(picture=name, model=trained["labels"]).split())
        assert done.code == 0
        told = f"'{name}' has {words}, the model takes 8x8 in grey: it is made to fit"
        assert (told in done.err) if words else "made to fit" not in done.err


# -- info, parts, export -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_info_says_what_a_run_is(cvae, trained, kind):
    config = json.loads((trained[kind] / "config.json").read_text())
    facts = cvae("info", trained[kind], "--json").facts
    for key in ("image_shape", "latent_dim", "classes"):
        assert facts[key] == config["model"][key]
    assert facts["architecture"].startswith("mlp (hidden [400]") and facts["data"] == "digits"
    assert facts["epochs"] == "20 of 20" and "nats" in facts["test_bound"]
    assert {"config.json", "decoder.onnx", "encoder.onnx", "model.safetensors"} <= set(facts["files"])
    text = cvae("info", trained[kind]).out
    assert all(re.search(rf"^{key} ", text, flags=re.MULTILINE) for key, value in facts.items() if value is not None)


@pytest.mark.parametrize("role", ["decoder", "encoder"])
def test_info_says_what_an_exported_file_is(cvae, trained, role):
    path = trained["labels"] / f"{role}.onnx"
    props = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    expected = {"file": str(path), "bytes": path.stat().st_size, **json.loads(props["cvae"])}
    assert cvae("info", path, "--json").facts == expected
    assert f"{path.stat().st_size}" in cvae("info", path).out


def test_info_of_a_run_steers_no_terminal(cvae, trained):
    shutil.copytree(trained["plain"], "run")
    config = json.loads(Path("run/config.json").read_text())
    config["training"]["data"] = "folder:\x1b[2J\u202e\ud800"
    Path("run/config.json").write_text(json.dumps(config))
    done = cvae("info", "run")
    assert done.code in (0, 1) and not set("\x1b\u202e\ud800") & set(done.out + done.err), done


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_terminal_shows_the_picture_on_the_stream_of_remarks(cvae, trained, monkeypatch, stream):
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    done = cvae("generate", trained["plain"], "--seed", 1)
    assert done.code == 0 and "\033_G" not in done.out and ("\033_G" in done.err) == (stream == "stderr")


def test_parts_lists_every_part(cvae):
    facts = cvae("parts", "--json").facts
    kinds = {value for value in vars(registry).values() if isinstance(value, registry.Registry)}
    assert sorted(map(sorted, facts.values())) == sorted(map(sorted, kinds))
    text = cvae("parts").out
    assert all(re.search(rf"^  {name} +\S", text, flags=re.MULTILINE) for names in facts.values() for name in names)


def test_archs_is_a_hidden_alias_of_parts(cvae):
    assert cvae("archs") == cvae("parts")
    assert not re.search(r"^  archs\b", cvae("--help").out, flags=re.MULTILINE)


# -- which run ---------------------------------------------------------------------------------------------------------


def three_runs(trained: dict[str, Path]) -> None:
    """The newest is runs/new, a model with labels; the others, copied earlier and later, have none."""
    for name, kind, seconds in ("middle", "plain", 2_000), ("new", "labels", 3_000), ("old", "plain", 1_000):
        shutil.copytree(trained[kind], Path("runs") / name)
        run = Path("runs") / name
        for path in (run / "model.safetensors", *(run / "last").glob("*.json")):
            os.utime(path, (seconds, seconds))


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["generate"], {"model": "labels"}),
        (["interpolate"], {"model": "labels"}),
        (["reconstruct", "a.png"], {"model": "labels"}),
        (["info"], {"run": "runs/new"}),
        (["train", "--resume"], {"run": "runs/new"}),
    ],
    ids=str,
)
def test_the_newest_run_is_taken_and_told(cvae, trained, pictures, arguments, fact):
    three_runs(trained)
    done = cvae(*arguments, "--json")
    assert fact.items() <= done.facts.items()
    assert done.err.splitlines()[0] == "newest run: runs/new"


def test_export_takes_the_newest_run_and_writes_what_it_names(cvae, trained):
    three_runs(trained)
    before = Path("runs/old/decoder.onnx").read_bytes()
    done = cvae("export", "onnx", "--license", "CC0-1.0", "--json")
    assert done.err == "newest run: runs/new\n"
    assert done.facts["files"] == ["runs/new/decoder.onnx", "runs/new/encoder.onnx", "runs/new/README.md"]
    facts = cvae("info", "runs/new/decoder.onnx", "--json").facts
    assert (facts["license"], facts["name"]) == ("CC0-1.0", "new")
    assert Path("runs/old/decoder.onnx").read_bytes() == before


# -- train -------------------------------------------------------------------------------------------------------------


def test_the_flags_of_train_are_the_fields_of_its_config_and_the_short_flags():
    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"options"}
    parameters = inspect.signature(train).parameters
    own = {"recipe", "out", "resume", "set_", "json"}
    assert set(parameters) - own == fields | SHORT_FLAGS.keys() | {"without_without"}  # the last is a hidden alias
    wanted, found = typing.get_type_hints(TrainConfig), typing.get_type_hints(train)
    for name in fields:
        kinds = {*(typing.get_args(wanted[name]) or [wanted[name]]), types.NoneType}
        if name in ("trackers", "without", "milestones"):  # given one by one
            kinds = {list[int] if name == "milestones" else list[str], types.NoneType}
        if name == "size":  # read by a parser of its own
            kinds -= {int}
        assert set(typing.get_args(found[name])) == kinds and parameters[name].default is None, name


def test_every_flag_reaches_the_config(cvae):
    asked = {
        "arch": "mlp-large", "conditional": True, "conditioning": "concat", "likelihood": "gaussian",
        "prior": "normal", "latent_dim": 5, "data": "digits", "data_dir": "somewhere", "size": 10,
        "binarize": "static", "validation": 0.25, "limit": 64, "objective": "elbo",
        "kl_warmup": 1.5, "epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01,
        "schedule": "step", "warmup": 2, "clip": 5.0, "ema": 0.5, "seed": 3, "device": "cpu", "precision": "fp32",
        "flip": True, "shift": 1, "crop": 0.9, "accumulate": 2, "on_nan": "skip", "compile": False,
        "trackers": ["none"], "init": "first", "without": ["3", "5"], "milestones": [1],
    }  # fmt: skip
    assert set(asked) == {f.name for f in dataclasses.fields(TrainConfig)} - {"options"}
    flags = [f"{flag(name)}={value}" for name, value in asked.items() if not isinstance(value, bool | list)]
    flags += ["--conditional", "--flip", "--no-compile", "--tracker", "none"]
    flags += ["--exclude-class", "3", "--exclude-class", "5", "--milestone", "1", "--beta", "2", "--free-bits", "0.5"]
    flags += ["--set", "arch.hidden=[32]", "--set", "likelihood.sigma=0.2"]
    first = cvae("train", *(flag for flag in flags if not flag.startswith("--init")), "--out", "first")
    assert first.code == 0, first.err
    facts = cvae("train", *flags, "--json").facts
    assert facts["run"] == "runs/digits-mlp-large-conditional"
    config = json.loads(Path(facts["run"], "config.json").read_text())
    assert {name: config["training"][name] for name in asked} == asked
    assert config["training"]["options"]["objective"] == {"beta": 2.0, "free_bits": 0.5}
    model = config["model"]
    assert (model["image_shape"], model["latent_dim"], model["classes"]) == ([1, 10, 10], 5, list("01246789"))
    assert model["architecture"] == {"name": "mlp-large", "options": {"hidden": [32]}}
    assert (model["conditioning"]["name"], model["prior"]["name"]) == ("concat", "normal")
    assert model["likelihood"] == {"name": "gaussian", "options": {"sigma": 0.2}}
    hidden = load_model(facts["run"])[0].state_dict()["decoder.head.weight"]
    assert hidden.shape == (100, 32)


def test_a_recipe_is_overridden_by_flags(cvae):
    Path("mine.toml").write_text(
        'arch = "mlp"\nlatent-dim = 5\nepochs = 1\nlimit = 64\nlr = 0.002\n[options.arch]\nhidden = [16]\n'
    )
    recipe = json.loads(Path(cvae("train", "--recipe", "mine.toml", "--json").facts["run"], "config.json").read_text())
    assert recipe["training"]["lr"] == 0.002 and recipe["model"]["latent_dim"] == 5
    assert recipe["model"]["architecture"]["options"]["hidden"] == [16]
    flags = ["--latent-dim", 6, "--lr", 0.001, "--set", "arch.hidden=[32]", "--out", "x"]
    assert cvae("train", "--recipe", "mine.toml", *flags).code == 0
    config = json.loads(Path("x/config.json").read_text())
    assert (config["model"]["latent_dim"], config["training"]["lr"], config["training"]["limit"]) == (6, 0.001, 64)
    assert config["model"]["architecture"]["options"]["hidden"] == [32]


def test_options_of_a_recipe_go_with_its_part(cvae):
    """A flag that names another part leaves out the options of the recipe's."""
    Path("mine.toml").write_text(
        'arch = "mlp"\nepochs = 1\nlimit = 64\n[options.arch]\nhidden = [16]\n[options.prior]\nhidden = 8\n'
    )
    assert cvae("train", "--recipe", "mine.toml", "--prior", "normal", "--out", "normal").code == 0
    model = json.loads(Path("normal/config.json").read_text())["model"]
    assert model["prior"] == {"name": "normal", "options": {}}
    assert model["architecture"]["options"] == {"hidden": [16]}
    assert (
        cvae("train", "--recipe", "mine.toml", "--prior", "flow", "--set", "prior.couplings=2", "--out", "flow").code
        == 0
    )
    model = json.loads(Path("flow/config.json").read_text())["model"]
    assert model["prior"]["options"] == {"couplings": 2, "hidden": 8}


def test_runs_get_names_of_their_own_and_a_runs_config_repeats_it(cvae):
    first = cvae(*QUICK, "--seed", 3, "--set", "arch.hidden=[32]", "--json").facts["run"]
    second = cvae("train", "--recipe", f"{first}/config.json", "--json").facts["run"]
    other = cvae(*QUICK, "--seed", 4, "--set", "arch.hidden=[32]", "--json").facts["run"]
    assert len({first, second, other}) == 3 and {str(Path(run).parent) for run in (first, second, other)} == {"runs"}
    a, b, c = (Path(run, "model.safetensors").read_bytes() for run in (first, second, other))
    assert a == b != c


def test_set_goes_before_the_config_that_is_repeated(cvae):
    run = cvae(*QUICK, "--beta", 2, "--json").facts["run"]
    cvae("train", "--recipe", f"{run}/config.json", "--set", "objective.beta=5", "--out", "x")
    assert json.loads(Path("x/config.json").read_text())["training"]["options"]["objective"]["beta"] == 5


def test_resume_goes_on_where_the_run_ended(cvae):
    run = cvae(*QUICK, "--json").facts["run"]
    cvae(*QUICK, "--out", "runs/other")
    before = Path("runs/other/model.safetensors").read_bytes()
    assert cvae("train", "--resume", "--out", run, "--epochs", 3, "--json").facts["run"] == run
    records = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "epoch" in record] == [1, 2, 3]
    assert json.loads(Path(run, "config.json").read_text())["training"]["epochs"] == 3
    assert Path("runs/other/model.safetensors").read_bytes() == before


# -- wrong use and damaged files: one line, nothing written ------------------------------------------------------------


def snapshot() -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path().rglob("*")}


@pytest.fixture
def refused(cvae) -> Callable[..., None]:
    """A command ends with this code and one error line with all the words, and leaves the folder as it was."""

    def check(code: int, words: list[str], *args: object) -> None:
        before = snapshot()
        done = cvae(*args)
        *remarks, line = done.err.splitlines()
        assert (done.code, done.out) == (code, ""), done.err
        assert line.startswith("cvae: error: ") and done.err.endswith("\n")
        assert not [remark for remark in remarks if "rror" in remark or "Traceback" in remark or "Warn" in remark]
        assert [word for word in words if word not in line] == [], line
        assert snapshot() == before

    return check


@pytest.fixture
def litter(in_tmp) -> None:
    """Things that a user may name by mistake."""
    Path("empty-folder").mkdir()
    Path("a-file").write_text("text")
    Path("text.png").write_text("this is no picture")
    Path("text.onnx").write_text("this is no model\n" * 30)
    Path("unknown-key.toml").write_text("epochz = 3\n")
    Path("no-toml.toml").write_text("= 3\n")
    Path("wrong-type.toml").write_text('epochs = "3"\n')
    Image.new("L", (8, 8)).save("seven.png")
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [tensor], [other])
    onnx.save(onnx.helper.make_model(graph), "foreign.onnx")


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
NO_ORT_CUDA = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA"
)

BAD_TRAINING = {
    "architecture": (2, "--arch resnett", ["'resnett'", "'resnet'"]),
    "likelihood": (2, "--likelihood gausian", ["'gausian'", "'gaussian'"]),
    "prior": (2, "--prior nromal", ["'nromal'", "normal"]),
    "objective": (2, "--objective elboo", ["'elboo'", "'elbo'"]),
    "conditioning": (2, "--conditional --conditioning flim", ["'flim'", "film"]),
    "data": (2, "--data mnsit", ["'mnsit'", "'mnist'"]),
    "no folder": (2, "--data folder:nowhere", ["folder:nowhere", "no such folder"]),
    "empty folder": (2, "--data folder:empty-folder", ["'empty-folder'", ".png"]),
    "path": (2, "--data empty-folder", ["'empty-folder'", "folder:empty-folder"]),
    "epochs": (2, "--epochs 0", ["--epochs 0", "at least 1"]),
    "batch": (2, "--batch-size 0", ["--batch-size 0", "at least 1"]),
    "latent": (2, "--latent-dim 0", ["--latent-dim 0", "at least 1"]),
    "large latent": (2, "--latent-dim 65537", ["65537", "65536"]),
    "sides": (2, "--size 48*80", ["'48*80'", "48x80"]),
    "size": (2, "--size 3", ["--size 3", "4 to 4096"]),
    "rate": (2, "--lr -1", ["--lr -1", "more than 0"]),
    "rate nan": (2, "--lr nan", ["--lr nan", "more than 0"]),
    "beta": (2, "--beta -1", ["beta=-1", "at least 0"]),
    "seed": (2, "--seed -1", ["--seed -1", "4294967295"]),
    "validation": (2, "--validation 1", ["--validation 1", "less than 1"]),
    "ema": (2, "--ema 1", ["--ema 1", "less than 1"]),
    "schedule": (2, "--schedule cosin", ["'cosin'", "'cosine'"]),
    "milestone": (2, "--milestone 5", ["--milestone (5,)", "--schedule step"]),
    "early milestone": (2, "--schedule step --milestone 0", ["--milestone 0", "at least 1"]),
    "exclude": (2, "--exclude-class 11", ["--exclude-class '11'", "'1'"]),
    "exclude all": (2, " ".join(f"--exclude-class {i}" for i in range(10)), ["leaves no images in train"]),
    "precision": (2, "--precision fp17", ["'fp17'", "'fp16'"]),
    "fp16 on cpu": (2, "--precision fp16 --device cpu", ["'fp16'", "bf16"]),
    "device": (2, "--device gpu", ["'gpu'", "'cpu'"]),
    "recipe": (2, "--recipe mnist-resnet", ["'mnist-resnet'", "'mnist-resnet-flow'", ".toml"]),
    "first stage": (2, "--recipe mnist-resnet-flow", ["'mnist-resnet-flow-iwae'", "--recipe mnist-resnet-flow-iwae"]),
    "no recipe": (2, "--recipe nowhere.toml", ["'nowhere.toml'"]),
    "recipe key": (2, "--recipe unknown-key.toml", ["unknown-key.toml", "'epochz'", "'epochs'"]),
    "recipe type": (2, "--recipe wrong-type.toml", ["wrong-type.toml", "epochs", "'3'", "int"]),
    "no toml": (2, "--recipe no-toml.toml", ["'no-toml.toml'", "line 1"]),
    "set": (2, "--set arch.hidden", ["'arch.hidden'", "PART.OPTION=VALUE"]),
    "set part": (2, "--set archs.hidden=3", ["'archs.hidden=3'", "arch, "]),
    "set option": (2, "--arch mlp --set arch.hiden=[3]", ["'hiden'", "'hidden'"]),
    "set type": (2, "--arch mlp --set arch.hidden=3", ["hidden=3", "[400]"]),
    "set without part": (2, "--set conditioning.x=1", ["conditioning"]),
    "no run": (2, "--resume", ["'runs'", "--out"]),
    "no such run": (1, "--resume --out nowhere", ["nowhere"]),
    "under a file": (1, "--arch mlp --limit 64 --out a-file/run", ["'a-file/run"]),
}

BAD_OPTIONS = {
    "beta nan": ("--arch mlp --set objective.beta=NaN", ["beta=nan", "at least 0"]),
    "size": ("--arch mlp --size 5000", ["--size 5000", "4096"]),
    "resume for less": ("--resume --out run --epochs 5", ["--epochs 5", "20 epochs"]),
    "conditioning of none": ("--conditioning flim", ["'flim'", "'film'"]),
    "option empty": ("--arch mlp --set arch.hidden=[]", ["hidden=()"]),
    "option text": ('--arch mlp --set arch.hidden=["a"]', ["hidden=['a']"]),
    "option fraction": ("--arch mlp --set arch.hidden=[1.5]", ["hidden=[1.5]"]),
    "option zero": ("--arch mlp --set arch.hidden=[0]", ["hidden=(0,)"]),
    "option negative": ("--arch mlp --set arch.hidden=[-3]", ["hidden=(-3,)"]),
    "width": ("--arch conv --set arch.width=-1", ["width=-1"]),
    "dropout": ("--arch conv --set arch.dropout=2.0", ["dropout=2.0"]),
    "sigma": ("--arch mlp --likelihood gaussian --set likelihood.sigma=0.0", ["sigma=0.0"]),
    "beta": ("--arch mlp --set objective.beta=-1.0", ["beta=-1.0", "at least 0"]),
    "resume recipe": ("--resume --out run --recipe nowhere.toml", ["'nowhere.toml'"]),
    "resume set": ("--resume --out run --set arch.hidden=[1]", ["--set arch.hidden=[1]", "[400]", "--epochs"]),
}


@pytest.mark.parametrize(("code", "flags", "words"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_a_training_that_makes_no_sense_is_refused(refused, litter, code, flags, words):
    refused(code, words, "train", *flags.split())


@pytest.mark.parametrize(("flags", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused(refused, trained, flags, words):
    shutil.copytree(trained["plain"], "run")
    short = [] if "--resume" in flags else ["--epochs", "1", "--limit", "64"]
    refused(2, words, "train", *short, *flags.split())


@NO_CUDA
def test_a_device_that_is_not_here_is_refused(refused):
    refused(2, ["'cuda'", "leave the flag out"], "train", "--device", "cuda")


def test_a_run_is_not_overwritten_and_not_changed(refused, trained):
    shutil.copytree(trained["plain"], "run")
    refused(2, ["'run'", "--resume"], *QUICK, "--out", "run")
    refused(2, ["--lr 0.1", "--lr 0.005", "--epochs"], "train", "--resume", "--out", "run", "--lr", "0.1")


def test_beta_needs_an_objective_that_has_it(refused, monkeypatch):
    monkeypatch.setattr(registry.OBJECTIVES, "_registered", {"without-beta": lambda model, image, label, weight: None})
    refused(2, ["'beta'", "'without-beta'", "it has none"], "train", "--objective", "without-beta", "--beta", "2")


@pytest.mark.parametrize("validation", [0.1, 0])
def test_a_loss_that_explodes_names_the_learning_rate(cvae, validation):
    done = cvae(*QUICK, "--epochs", 1, "--lr", "1e30", "--validation", validation)
    assert done.code == 1 and "--lr" in done.err.splitlines()[-1] and "1e+30" in done.err.splitlines()[-1]


BAD_USE = {
    "digit": (2, "generate {labels} --digit 12", ["'12'", "0, 1, 2"]),
    "negative": (2, "generate {labels} --label -1", ["'-1'", "0, 1, 2"]),
    "label": (2, "generate {labels} --label x", ["'x'", "0, 1, 2"]),
    "no labels": (2, "generate {plain} --label x", ["'x'", "without labels"]),
    "two labels": (2, "generate {labels} --label 1 --digit 2", ["'1'", "'2'", "give one"]),
    "label and grid": (2, "generate {labels} --label 1 --grid", ["--grid", "'1'", "give one"]),
    "infinite": (2, "generate {labels} --temperature inf", ["inf"]),
    "foreign file": (1, "generate foreign.onnx", ["'foreign.onnx'", "not exported by cvae"]),
    "text file": (1, "generate text.onnx", ["'text.onnx'", "ONNX"]),
    "picture": (1, "generate seven.png", ["'seven.png'", "ONNX"]),
    "encoder": (2, "generate {labels}/encoder.onnx", ["encoder.onnx", "decoder"]),
    "no run": (2, "generate empty-folder", ["'empty-folder'", "decoder.onnx"]),
    "under a file": (1, "generate {labels} --out a-file/x.png", ["'a-file/x.png'"]),
    "ending": (2, "generate {labels} --out x.foo", ["'x.foo'", "'.foo'", ".png"]),
    "no ending": (2, "interpolate {labels} --digit 3 --out empty-folder", ["'empty-folder'", ".png"]),
    "device": (2, "generate {labels} --device tpu", ["'tpu'", "cpu"]),
    "restyle to": (2, "restyle seven.png -m {labels} --to 10", ["'10'", "0, 1, 2"]),
    "restyle from": (2, "restyle seven.png -m {labels} --to 1 --digit x", ["'x'", "0, 1, 2"]),
    "restyle without labels": (2, "restyle seven.png -m {plain} --to 1", ["'1'", "without labels"]),
    "restyle without any": (2, "restyle seven.png -m {plain}", ["without labels"]),
    "restyle no picture": (1, "restyle text.png -m {labels} --to 1", ["'text.png'"]),
    "via": (1, "interpolate {plain} --via nowhere.png", ["'nowhere.png'"]),
    "mode": (2, "interpolate {labels} --mode foo", ["'foo'", "'slerp'", "'lerp'"]),
    "no start": (1, "interpolate {plain} --from nowhere.png", ["'nowhere.png'"]),
    "no end": (1, "interpolate {plain} --to -3", ["'-3'"]),
    "start no picture": (1, "interpolate {plain} --from text.png", ["'text.png'"]),
    "end label": (2, "interpolate {labels} --digit 3 --to-label 10", ["'10'", "0, 1, 2"]),
    "end without labels": (2, "interpolate {plain} --to-label 3", ["'3'", "without labels"]),
    "strip ending": (2, "interpolate {plain} --out x.foo", ["'x.foo'", "'.foo'"]),
    "gif under a file": (1, "interpolate {plain} --out a-file/x.gif", ["'a-file/x.gif'"]),
    "missing picture": (1, "reconstruct nowhere.png -m {plain}", ["'nowhere.png'"]),
    "no picture": (1, "reconstruct seven.png text.png -m {plain}", ["'text.png'"]),
    "folder": (1, "reconstruct empty-folder -m {plain}", ["'empty-folder'"]),
    "label of picture": (2, "reconstruct seven.png -m {labels} --digit 12", ["'12'", "0, 1, 2"]),
    "picture without labels": (2, "reconstruct seven.png -m {plain} --digit 1", ["'1'", "without labels"]),
    "info of a file": (1, "info foreign.onnx", ["'foreign.onnx'"]),
    "info of a folder": (2, "info empty-folder", ["'empty-folder'", "config.json"]),
    "format": (2, "export onxn {plain}", ["'onxn'", "'onnx'"]),
    "export nothing": (2, "export onnx", ["'runs'", "cvae train"]),
    "export a folder": (2, "export onnx empty-folder", ["'empty-folder'"]),
    "export a file": (1, "export onnx foreign.onnx", ["foreign.onnx"]),
    "export elsewhere": (2, "export onnx {plain} --out elsewhere", ["exporter 'onnx'", "'out'"]),
    "export a foreign file": (1, "export triton foreign.onnx", ["foreign.onnx", "not exported by cvae"]),
    "licence of a copy": (2, "export triton {plain} --license MIT", ["exporter 'triton'", "'license'"]),
}  # fmt: skip


@pytest.mark.parametrize(("code", "command", "words"), BAD_USE.values(), ids=BAD_USE)
def test_wrong_use_is_one_line(refused, litter, trained, code, command, words):
    refused(code, words, *[word.format(**trained) for word in command.split()])


@NO_ORT_CUDA
def test_cuda_that_onnxruntime_has_not_names_the_fix(refused, trained):
    refused(
        2, ["'cuda'", "pip uninstall -y onnxruntime", "onnxruntime-gpu"], "generate", trained["plain"], "--device=cuda"
    )


@pytest.mark.parametrize("command", ["generate", "info", "interpolate", "export onnx"])
def test_an_unknown_run_is_quoted_with_the_near_ones(refused, trained, command):
    shutil.copytree(trained["plain"], "runs/digits-mlp")
    refused(2, ["'digits-mpl'", "'digits-mlp'"], *command.split(), "digits-mpl")


def test_without_any_model_the_error_names_what_makes_one(refused, monkeypatch):
    monkeypatch.setattr("cvae.model_zoo.models", dict)
    refused(2, ["cvae train"], "generate", "--digit", "7")


def test_a_seed_to_a_picture_needs_a_label(refused, trained, litter):
    refused(2, ["--label"], "interpolate", trained["labels"], "--from", "seven.png")


def test_a_run_that_was_not_exported_names_the_export(refused, trained, litter):
    shutil.copytree(trained["plain"], "runs/raw", ignore=shutil.ignore_patterns("*.onnx"))
    for command in (["generate"], ["generate", "raw"], ["interpolate", "runs/raw"], ["reconstruct", "seven.png"]):
        refused(1, ["cvae export onnx runs/raw"], *command)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_an_error(refused, trained):
    Path("locked").mkdir(mode=0o500)
    refused(1, ["'locked/x.png'", "ermission"], "generate", trained["plain"], "--out", "locked/x.png")


USAGE = {
    "no command": "bogus",
    "unknown flag": "generate {plain} --bogus",
    "no number": "generate {plain} -n three",
    "too few": "generate {plain} -n 0",
    "seed": "generate {plain} --seed -1",
    "temperature": "generate {plain} --temperature -1",
    "one step": "interpolate {plain} --steps 1",
    "speed": "interpolate {plain} --fps 0",
    "argument": "parts resnet",
    "no pictures": "reconstruct",
    "no format": "export",
    "train number": "train --epochs many",
}


@pytest.mark.parametrize("command", USAGE.values(), ids=USAGE)
def test_a_wrong_command_line_exits_with_2_and_writes_nothing(cvae, trained, command):
    done = cvae(*[word.format(**trained) for word in command.split()])
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err and not list(Path().iterdir())
    assert re.fullmatch(r"cvae: error: .*; see cvae( [a-z]+)* --help\n", done.err)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --epochs abc", ["'abc'", "'--epochs'", "see cvae train --help"]),
        ("train --milestone 1 --milestone x", ["'x'", "'--milestone'", "see cvae train --help"]),
        ("generate --temperature x", ["'x'", "'--temperature'", "see cvae generate --help"]),
        ("generate -n 0", ["0", "'-n'", "see cvae generate --help"]),
        ("generate --temperature", ["'--temperature'", "see cvae generate --help"]),
        ("plot latent --perplexitty 3", ["--perplexitty", "--perplexity", "see cvae plot latent --help"]),
        ("detect score", ["PATH", "see cvae detect score --help"]),
        ("plot bogus", ["'bogus'", "see cvae plot --help"]),
        ("bogus", ["'bogus'", "see cvae --help"]),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_value_and_where_to_read_on(cvae, command, words):
    done = cvae(*command.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("cvae: error: ") and [word for word in words if word not in done.err] == [], done.err


def test_a_command_without_its_subcommand_prints_its_help(cvae):
    done = cvae("plot")
    assert done.code in (0, 2) and "Usage: cvae plot" in done.out + done.err


@pytest.mark.parametrize("out", ["x.png", "x.npy", "x.npz", "x"])
def test_a_huge_number_of_images_is_refused_at_once(refused, trained, out):
    huge = str(10**20)
    refused(2, ["at most"], "generate", trained["labels"], "-n", huge, "--out", out)


# -- runs that are damaged ---------------------------------------------------------------------------------------------


def changed_config(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        change(config)
        (run / "config.json").write_text(json.dumps(config))

    return damage


def changed_weights(change: Callable[[dict[str, Any], bytes], bytes]) -> Callable[[Path], None]:
    """`change` the header of the safetensors file, https://github.com/huggingface/safetensors#format, and its data."""

    def damage(run: Path) -> None:
        path = run / "model.safetensors"
        size = struct.unpack("<Q", path.read_bytes()[:8])[0]
        header, data = json.loads(path.read_bytes()[8 : 8 + size]), path.read_bytes()[8 + size :]
        data = change(header, data)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return damage


def not_a_number(header: dict[str, Any], data: bytes) -> bytes:
    start = header["decoder.head.bias"]["data_offsets"][0]
    return data[:start] + struct.pack("<f", float("nan")) + data[start + 4 :]


def turned(header: dict[str, Any], data: bytes) -> bytes:
    header["decoder.head.weight"]["shape"].reverse()
    return data


def endless(header: dict[str, Any], data: bytes) -> bytes:
    """The last tensor becomes 2**62 rows of nothing."""
    last = max(header.values(), key=lambda tensor: tensor.get("data_offsets", [0, 0])[1])
    start = last["data_offsets"][0]
    last.update(shape=[2**62, 0], data_offsets=[start, start])
    return data[:start]


def renamed(header: dict[str, Any], data: bytes) -> bytes:
    header["decoder.tail.bias"] = header.pop("decoder.head.bias")
    return data


def file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes())) and None


WEIGHTS = {
    "truncated": (file("model.safetensors", lambda data: data[:-100]), ["model.safetensors"]),
    "empty": (file("model.safetensors", lambda data: b""), ["model.safetensors"]),
    "header length": (
        file("model.safetensors", lambda data: struct.pack("<Q", 2**62) + data[8:]),
        ["model.safetensors", str(2**62)],
    ),
    "shape": (changed_weights(turned), ["decoder.head.weight", "[400, 64]", "[64, 400]"]),
    "nan": (changed_weights(not_a_number), ["decoder.head.bias", "not finite"]),
    "endless": (changed_weights(endless), ["model.safetensors", str(2**62)]),
    "name": (changed_weights(renamed), ["model.safetensors", "decoder.head.bias"]),
    "missing": (lambda run: (run / "model.safetensors").unlink(), ["model.safetensors"]),
    "other config": (
        changed_config(lambda config: config["model"].update(latent_dim=9)),
        ["model.safetensors", "[18, 400]", "[16, 400]"],
    ),
}

CONFIGS = {
    "no json": (file("config.json", lambda data: data[:-9]), ["config.json", "JSON"]),
    "no text": (file("config.json", lambda data: b"\xff\xfe\x80" + data), ["config.json", "JSON"]),
    "nested": (file("config.json", lambda data: b"[" * 100_000), ["config.json", "JSON"]),
    "list": (file("config.json", lambda data: b"[]"), ["config.json"]),
    "unknown key": (changed_config(lambda c: c["model"].update(latent_dims=8)), ["'latent_dims'", "'latent_dim'"]),
    "missing key": (changed_config(lambda c: c["model"].pop("latent_dim")), ["config.json", "'latent_dim'"]),
    "type": (changed_config(lambda c: c["model"].update(latent_dim="8")), ["latent_dim", "'8'", "int"]),
    "range": (changed_config(lambda c: c["model"].update(latent_dim=-8)), ["config.json", "-8"]),
    "newer": (changed_config(lambda c: c.update(format=2)), ["config.json", "format 2", "upgrade cvae-onnx"]),
    "no format": (changed_config(lambda c: c.pop("format")), ["config.json", "None"]),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), {**WEIGHTS, **CONFIGS}.values(), ids={**WEIGHTS, **CONFIGS})
def test_a_damaged_run_is_not_exported(refused, trained, damage, words):
    run = Path(shutil.copytree(trained["plain"], "run", ignore=shutil.ignore_patterns("*.onnx")))
    damage(run)
    refused(1, words, "export", "onnx", run)


@pytest.mark.parametrize("command", [["info", "run"], ["train", "--resume", "--out", "run"]], ids=" ".join)
@pytest.mark.parametrize(("damage", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_is_refused_everywhere(refused, trained, command, damage, words):
    damage(Path(shutil.copytree(trained["plain"], "run")))
    refused(1, words, *command)


# -- evaluate ----------------------------------------------------------------------------------------------------------


def test_evaluate_prints_what_it_measured(cvae, trained):
    facts = cvae("evaluate", trained["labels"], "--limit", 50, "--samples", 3, "--json").facts
    assert facts["model"] == "labels" and facts["data"] == "digits" and facts["protocol"]["images"] == 50
    assert set(facts) == {
        "model",
        "backend",
        "data",
        "protocol",
        "bound",
        "importance_weighted",
        "reconstruction",
        "labels",
    }
    done = cvae("evaluate", trained["labels"], "--limit", 50, "--samples", 3)
    assert done.code == 0
    *remarks, last = done.err.splitlines()
    assert last == "no features for 'digits': distances are left out; choose some with --features MODULE:CALLABLE"
    assert len(remarks) == 1 and remarks[0].startswith("digits: ")
    for name in ("nats", "standard error", "active units", "psnr", "ssim", "accuracy of the bound as a classifier"):
        assert re.search(rf"^  {name} +[-0-9.]+$", done.out, flags=re.MULTILINE)
    assert f"{facts['importance_weighted']['nats']:.4f}" in done.out  # the same figures again


def test_evaluate_takes_the_newest_run_and_says_so(cvae, trained):
    shutil.copytree(trained["plain"], "runs/mine")
    done = cvae("evaluate", "--limit", 5, "--split", "validation", "--json")
    assert done.facts["model"] == "mine" and done.facts["protocol"]["split"] == "validation"
    assert "newest run: runs/mine" in done.err


def test_exported_files_are_evaluated_alone(cvae, in_tmp):
    assert cvae(*QUICK, "--prior", "normal", "--likelihood", "bernoulli", "--out", "run").code == 0
    assert cvae("export", "onnx", "run").code == 0
    by_run = cvae("evaluate", "run", "--json").facts
    for arguments in (["run", "--exported"], ["run/decoder.onnx"]):
        facts = cvae("evaluate", *arguments, "--json").facts
        assert facts["backend"].startswith("onnxruntime")
        assert facts["bound"] == pytest.approx(by_run["bound"], rel=1e-4)
    Path("alone").mkdir()
    for name in ("decoder.onnx", "encoder.onnx"):
        shutil.copy(Path("run") / name, "alone")
    assert cvae("evaluate", "alone/decoder.onnx", "--json").facts["bound"] == pytest.approx(by_run["bound"], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--split", "tset"], 2, "'tset'"),
        (["--data", "digit"], 2, "'digits'"),
        (["--binarize", "yes"], 2, "'yes'"),
        (["--features", "mnits"], 2, "'mnits'"),
        (["--precision", "bf61"], 2, "'bf61'"),
        (["--device", "tpu"], 2, "'tpu'"),
        (["--data", "npz:nowhere.npz"], 2, "nowhere.npz"),
    ],
)
def test_evaluate_refuses_in_one_line(cvae, trained, flags, code, word):
    done = cvae("evaluate", trained["plain"], *flags)
    assert done.code == code and done.out == ""
    assert word in done.err and "Traceback" not in done.err


# -- the zoo -----------------------------------------------------------------------------------------------------------


def test_the_zoo_lists_shows_and_copies(cvae):
    facts = cvae("zoo", "list", "--json").facts
    assert facts["default"] in facts["models"] and set(facts["models"]) <= set(facts["recipes"])
    done = cvae("zoo", "list")
    for name, model in facts["models"].items():
        assert model["evaluation"]["model"] == name
        assert f"{name} " in done.out and model["summary"] in done.out
        shown = cvae("zoo", "show", name)
        assert shown.code == 0 and f"# {name}" in shown.out
    name = facts["default"]
    copied = cvae("zoo", "copy", name, "--json").facts
    assert copied["out"] == f"runs/{name}" and "decoder.onnx" in copied["files"]
    assert cvae("generate", "--digit", 7, "--seed", 1, "--json").facts["model"] == name  # it is the newest run now
    again = cvae("zoo", "copy", name)
    assert again.code == 2 and "exists already" in again.err
    assert not list(Path("runs").glob(".*"))


@pytest.mark.parametrize("command", ["show", "copy"])
def test_an_unknown_zoo_model_is_refused(cvae, command):
    done = cvae("zoo", command, "mnist-resnet-conditonal")
    assert done.code == 2 and "did you mean 'mnist-resnet-conditional'" in done.err


def test_an_unknown_recipe_has_recipes_for_near_names(cvae):
    done = cvae("zoo", "show", "classic-car-bce")
    assert done.code == 2 and "did you mean 'classic-cars-bce'" in done.err


def test_a_run_that_begins_with_anothers_weights_has_its_network(cvae, trained):
    done = cvae("train", "--init", trained["labels"], "--epochs", 1, "--limit", 64, "--out", "more", "--json")
    assert done.code == 0, done.err
    config, source = (json.loads(Path(run, "config.json").read_text()) for run in ("more", trained["labels"]))
    assert config["model"] == source["model"]
    refused = cvae("train", "--init", trained["labels"], "--latent-dim", 5, "--out", "other")
    assert refused.code == 2 and "another network" in refused.err and not Path("other", "config.json").exists()
    assert "nowhere" in cvae("train", "--init", "nowhere").err
