"""Runs with a damaged config or damaged weights: one line with the cause, and nothing written."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
    """Give the last tensor 2**62 empty rows."""
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
def test_export_rejects_damaged_run(assert_fails, trained, damage, words):
    run = Path(shutil.copytree(trained["plain"], "run", ignore=shutil.ignore_patterns("*.onnx")))
    damage(run)
    assert_fails(1, words, "export", "onnx", run)


@pytest.mark.parametrize("command", [["info", "run"], ["train", "--resume", "--out", "run"]], ids=" ".join)
@pytest.mark.parametrize(("damage", "words"), CONFIGS.values(), ids=CONFIGS)
def test_info_and_resume_reject_damaged_config(assert_fails, trained, command, damage, words):
    damage(Path(shutil.copytree(trained["plain"], "run")))
    assert_fails(1, words, *command)
