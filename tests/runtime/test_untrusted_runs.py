"""Hostile runs, configs, recipes and detectors are rejected with a one-line message, within a second and 200 MB."""

import hashlib
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from untrusted import assert_rejected, peak_memory, reset_peak_memory

import cvae
from cvae.config import Config, TrainConfig
from cvae.engine.checkpoint import load_model_and_hash, save_weights
from cvae.errors import one_line
from cvae.model_config import ModelConfig, Part
from cvae.models import build
from cvae.serialization import MAX_TEXT, parse_json

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit memory in this way")


# -- configs and recipes -----------------------------------------------------------------------------------------------


def write_hostile_configs(folder: Path, run: Path) -> None:
    shutil.copy(run / "config.json", folder / "_valid.json")
    config = json.loads((run / "config.json").read_text())

    def write(name: str, **changes: Any) -> None:
        (folder / f"{name}.json").write_text(json.dumps({**config, "model": {**config["model"], **changes}}))

    write("huge_image", image_shape=[1, 2**40, 2**40])
    write("huge_latent", latent_dim=2**60)
    write("unknown_key", trust=True)
    write("huge_string", latent_dim="x" * 1_000_000)
    write(
        "int_too_large_for_a_float", likelihood={"name": "gaussian", "options": {"sigma": [10**400]}}, latent_dim=None
    )
    (folder / "deep.json").write_text("[" * 500_000 + "]" * 500_000)
    (folder / "duplicate_key.json").write_text((run / "config.json").read_text().replace("{", '{"format": 1, ', 1))
    many_keys = ",".join(f'"{i}":0' for i in range(180_000))
    (folder / "duplicate_among_many_keys.json").write_text(f'{{{many_keys},"179999":0}}')
    (folder / "key_many_times.json").write_text("{" + ",".join(['"a":0'] * 300_000) + "}")
    (folder / "long.json").write_text('{"x": "' + "x" * MAX_TEXT + '"}')
    (folder / "empty.json").write_text("")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")


def write_hostile_recipes(folder: Path) -> None:
    (folder / "_valid.toml").write_text("epochs = 1\n")
    recipes = {
        "deep": "x = " + "[" * 4000 + "]" * 4000,
        "deep_tables": "x" + ".x" * 4000 + " = 1",
        "long": "x = '" + "x" * 1_000_000 + "'",
        "duplicate_key": "epochs = 1\nepochs = 2",
        "unknown_key": "trust = true",
        "not_utf8": "\udcff",
    }
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_bytes(text.encode(errors="surrogateescape"))


@needs_linux
def test_config_and_recipe_readers_reject_hostile_files(trained, tmp_path):
    write_hostile_configs(tmp_path, trained["labels"])
    write_hostile_recipes(tmp_path)
    assert_rejected(tmp_path)


# -- detectors ---------------------------------------------------------------------------------------------------------


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def write_hostile_detectors(folder: Path, run: Path) -> None:
    from cvae.detection.detector import CALIBRATION, CODES, METADATA, Detector
    from cvae.evaluation.exported_scorer import ExportedScorer

    valid = folder / "_valid.detector"
    valid.mkdir()
    for name in ("decoder.onnx", "encoder.onnx"):
        shutil.copy(run / name, valid / name)
    images = np.random.default_rng(0).random((30, 1, 8, 8), dtype=np.float32)
    Detector.fit(ExportedScorer(cvae.load(run)), images, data="noise", quantile=0.9).save(valid)
    text, codes = json.dumps(json.loads((valid / METADATA).read_text())), np.load(valid / CODES)

    def write(name: str, text: str, array: bytes | np.ndarray, file: str = CODES) -> None:
        target = Path(shutil.copytree(valid, folder / f"{name}.detector"))
        (target / METADATA).write_text(text)
        if isinstance(array, bytes):
            (target / file).write_bytes(array)
        else:
            np.save(target / file, array)

    write("pickle", text, np.array([{"a": 1}], dtype=object))
    write("codes_declared_as_a_terabyte", text, npy_header("(30, 8000000000)"))
    write("codes_zero_by_huge", text, npy_header(f"({2**62}, 0)"))
    write("codes_with_overflowing_shape", text, npy_header(f"({2**62}, {2**62})"))
    write("codes_with_deep_header", text, npy_header("(" * 4000 + ")" * 4000))
    write("codes_of_objects", text, npy_header("(30, 8)", "|O") + bytes(240))
    write("codes_of_text", text, codes.astype(str))
    write("codes_not_finite", text, np.full_like(codes, np.nan))
    write("codes_truncated", text, (valid / CODES).read_bytes()[:-1])
    write("codes_empty", text, b"")
    write("scores_declared_as_a_terabyte", text, npy_header("(30, 8000000000)", "<f8"), CALIBRATION)
    write("scores_of_objects", text, npy_header("(30, 3)", "|O") + bytes(720), CALIBRATION)
    write("scores_not_finite", text, np.full((30, 3), np.nan), CALIBRATION)
    write("number_not_finite", text.replace("0.9", "NaN"), codes)
    write("duplicate_key", text.replace("{", '{"format": 1, ', 1), codes)
    write("deep", "[" * 100_000, codes)
    write("huge_number_of_images", text.replace('"images": 30', f'"images": {2**60}'), codes)


@needs_linux
def test_detector_rejects_hostile_files(trained, tmp_path):
    write_hostile_detectors(tmp_path, trained["labels"])
    assert_rejected(tmp_path)


# -- runs: weight files, and configs of models that are larger than the weight file ------------------------------------


def write_hostile_runs(folder: Path, run: Path) -> None:
    data = (run / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    config = json.loads((run / "config.json").read_text())
    names = [name for name in header if name != "__metadata__"]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"])[:2]
    begin, end = header[second]["data_offsets"]
    empty_tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

    def write(name: str, weights: bytes = data, **model: Any) -> None:
        target = folder / f"{name}.run"
        target.mkdir()
        (target / "model.safetensors").write_bytes(weights)
        (target / "config.json").write_text(json.dumps({**config, "model": {**config["model"], **model}}))

    def pack(header: Any, values: bytes = values, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + values

    def change(**changes: Any) -> bytes:
        """Return the file with changes to the header of its second tensor."""
        return pack({**header, second: {**header[second], **changes}})

    write("_valid")
    write("overlap", change(data_offsets=header[first]["data_offsets"]))
    write("overlap_by_one", change(data_offsets=[begin - 4, end - 4]))
    write("hole", change(data_offsets=[begin + 4, end + 4]))
    write("hole_at_the_end", pack(header, values + bytes(400)))
    write("beyond_the_end", change(data_offsets=[2**62, 2**62 + end - begin]))
    write("negative_offsets", change(data_offsets=[-4, 4]))
    write("overflowing_offsets", change(data_offsets=[2**64, 2**64]))
    write("zero_by_huge", change(shape=[2**62, 0]))
    write("huge_shape", change(shape=[2**40, 2**40]))
    write("additional_zero_by_huge", pack({**header, "x": {**empty_tensor, "shape": [2**62, 0]}}))
    write("name_of_a_megabyte", pack({**header, "x" * 1_000_000: empty_tensor}))
    write("missing_tensor", pack({name: header[name] for name in names if name != second}))
    write("other_type", change(dtype="I32"))
    write("unknown_type", change(dtype="X"))
    write("no_type", pack({**header, second: {}}))
    write("not_an_object", pack([]))
    write("number_as_a_tensor", pack({**header, second: 3}))
    write("not_json", pack(b"{" * 1000))
    write("deep_header", pack(b"[" * 1_000_000))
    duplicate = json.dumps(header).replace("{", f'{{"{first}": {json.dumps(header[first])},', 1)
    write("duplicate_name", pack(duplicate.encode()))
    write(
        "many_empty_tensors",
        pack({f"x{i}": empty_tensor for i in range(20_000)}),
        prior={"name": "flow", "options": {"couplings": 10**6, "hidden": 1}},
    )
    write("huge_header", pack(b" " * (MAX_TEXT + 1)))
    write("header_beyond_the_file", pack(header, length=2**63))
    write("header_length_of_all_bits", pack(header, length=2**64 - 1))
    write("nan", pack(header, struct.pack("<f", float("nan")) + values[4:]))
    write("infinite", pack(header, values[:-4] + struct.pack("<f", float("-inf"))))
    write("empty", b"")
    write("short", b"\0\0\0")
    for length in range(0, len(data), max(1024, len(data) // 20)):
        write(f"truncated_at_{length}", data[:length])

    architecture = config["model"]["architecture"]
    write("config_of_a_terabyte", architecture={**architecture, "options": {"hidden": [10**6, 10**6]}})
    write("config_of_many_layers", architecture={**architecture, "options": {"hidden": [1] * 300_000}})
    write("config_with_overflowing_integer", architecture={**architecture, "options": {"hidden": [10**30]}})
    write("config_of_a_billion_couplings", prior={"name": "flow", "options": {"couplings": 10**9, "hidden": 1}})
    write("config_with_unknown_part", architecture={"name": "os:system", "options": {}})
    write("config_with_many_classes", classes=[str(i) for i in range(60_000)])


@needs_linux
def test_load_model_rejects_hostile_runs(trained, tmp_path):
    write_hostile_runs(tmp_path, trained["labels"])
    assert_rejected(tmp_path)


@needs_linux
@pytest.mark.integration  # it takes seconds
def test_loading_weights_takes_no_more_memory_than_the_model(tmp_path):
    model = ModelConfig(
        image_shape=(1, 28, 28),
        latent_dim=4,
        conditions=(),
        architecture=Part(name="mlp", options={"hidden": [4000, 4000]}),
        conditioning=None,
        likelihood=Part(name="bernoulli"),
        prior=Part(name="normal"),
    )
    config = Config(cvae_version="0", data_license="none", model=model, training=TrainConfig(arch="mlp"))
    (tmp_path / "config.json").write_text(config.to_json())
    weights = build(model).state_dict()
    save_weights(tmp_path / "model.safetensors", weights)
    reset_peak_memory()
    before = peak_memory()
    loaded, _, digest = load_model_and_hash(tmp_path)
    memory, size = peak_memory() - before, (tmp_path / "model.safetensors").stat().st_size
    assert size > 100 * 2**20 and memory < 1.25 * size
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    assert digest == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


# -- JSON and messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"x": {"a": 1, "a": 2}}', "NaN", "[Infinity]", "-1e400", "[" * 17 + "]" * 17]
)
def test_parse_json_rejects_ambiguous_or_deep_json(text):
    assert json.loads(text) is not None
    with pytest.raises(ValueError, match=r"twice|finite|deeper"):
        parse_json(text)


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", [], {}, [1, {"a": [None]}], json.loads("[" * 16 + "]" * 16)])
def test_parse_json_reads_valid_json(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(("text", "line"), [("a\nb\tc", "a b c"), ("\x1b[2J", "?[2J"), ("x" * 300, "x" * 197 + "...")])
def test_one_line_returns_short_printable_text(text, line):
    assert one_line(text) == line
