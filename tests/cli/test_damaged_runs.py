"""Runs with a damaged config or damaged weights: commands reject them with a one-line error and write nothing."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def edit_config(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def corrupt(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        change(config)
        (run / "config.json").write_text(json.dumps(config))

    return corrupt


def edit_weights(change: Callable[[dict[str, Any], bytes], bytes]) -> Callable[[Path], None]:
    """Return a function that edits a safetensors file: https://github.com/huggingface/safetensors#format."""

    def corrupt(run: Path) -> None:
        path = run / "model.safetensors"
        size = struct.unpack("<Q", path.read_bytes()[:8])[0]
        header, data = json.loads(path.read_bytes()[8 : 8 + size]), path.read_bytes()[8 + size :]
        data = change(header, data)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return corrupt


def insert_nan(header: dict[str, Any], data: bytes) -> bytes:
    start = header["decoder.head.bias"]["data_offsets"][0]
    return data[:start] + struct.pack("<f", float("nan")) + data[start + 4 :]


def transpose_shape(header: dict[str, Any], data: bytes) -> bytes:
    header["decoder.head.weight"]["shape"].reverse()
    return data


def set_huge_shape(header: dict[str, Any], data: bytes) -> bytes:
    """Change the shape of the last tensor to 2**62 empty rows."""
    last = max(header.values(), key=lambda tensor: tensor.get("data_offsets", [0, 0])[1])
    start = last["data_offsets"][0]
    last.update(shape=[2**62, 0], data_offsets=[start, start])
    return data[:start]


def rename_tensor(header: dict[str, Any], data: bytes) -> bytes:
    header["decoder.tail.bias"] = header.pop("decoder.head.bias")
    return data


def edit_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes())) and None


DAMAGED_WEIGHTS = {
    "truncated weights": (edit_file("model.safetensors", lambda data: data[:-100]), ["model.safetensors"]),
    "empty weights": (edit_file("model.safetensors", lambda data: b""), ["model.safetensors"]),
    "huge header length": (
        edit_file("model.safetensors", lambda data: struct.pack("<Q", 2**62) + data[8:]),
        ["model.safetensors", str(2**62)],
    ),
    "transposed shape": (edit_weights(transpose_shape), ["decoder.head.weight", "[400, 64]", "[64, 400]"]),
    "NaN in weights": (edit_weights(insert_nan), ["decoder.head.bias", "not finite"]),
    "huge shape": (edit_weights(set_huge_shape), ["model.safetensors", str(2**62)]),
    "renamed tensor": (edit_weights(rename_tensor), ["model.safetensors", "decoder.head.bias"]),
    "missing weights": (lambda run: (run / "model.safetensors").unlink(), ["model.safetensors"]),
    "config of another model": (
        edit_config(lambda config: config["model"].update(latent_dim=9)),
        ["model.safetensors", "[18, 400]", "[16, 400]"],
    ),
}
DAMAGED_CONFIGS = {
    "truncated JSON": (edit_file("config.json", lambda data: data[:-9]), ["config.json", "JSON"]),
    "not UTF-8": (edit_file("config.json", lambda data: b"\xff\xfe\x80" + data), ["config.json", "JSON"]),
    "deeply nested JSON": (edit_file("config.json", lambda data: b"[" * 100_000), ["config.json", "JSON"]),
    "not an object": (edit_file("config.json", lambda data: b"[]"), ["config.json"]),
    "unknown key": (edit_config(lambda c: c["model"].update(latent_dims=8)), ["'latent_dims'", "'latent_dim'"]),
    "missing key": (edit_config(lambda c: c["model"].pop("latent_dim")), ["config.json", "'latent_dim'"]),
    "wrong type": (edit_config(lambda c: c["model"].update(latent_dim="8")), ["latent_dim", "'8'", "int"]),
    "negative value": (edit_config(lambda c: c["model"].update(latent_dim=-8)), ["config.json", "-8"]),
    "newer format": (edit_config(lambda c: c.update(format=3)), ["config.json", "format 3", "upgrade cvae-onnx"]),
    "missing format": (edit_config(lambda c: c.pop("format")), ["config.json", "None"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("corrupt", "words"), {**DAMAGED_WEIGHTS, **DAMAGED_CONFIGS}.values(), ids={**DAMAGED_WEIGHTS, **DAMAGED_CONFIGS}
)
def test_export_rejects_damaged_run(assert_fails, trained, corrupt, words):
    run = Path(shutil.copytree(trained["plain"], "run", ignore=shutil.ignore_patterns("*.onnx")))
    corrupt(run)
    assert_fails(1, words, "export", "onnx", run)


@pytest.mark.parametrize("command", [["info", "run"], ["train", "--resume", "--out", "run"]], ids=" ".join)
@pytest.mark.parametrize(("corrupt", "words"), DAMAGED_CONFIGS.values(), ids=DAMAGED_CONFIGS)
def test_info_and_resume_reject_damaged_config(assert_fails, trained, command, corrupt, words):
    corrupt(Path(shutil.copytree(trained["plain"], "run")))
    assert_fails(1, words, *command)
