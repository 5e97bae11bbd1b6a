"""`cvae scan`: which files it accepts, which it rejects, and the bounds that it states."""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import cvae as package
from cvae.errors import UsageError
from cvae.model_zoo import models
from cvae.run import CONFIG, DECODER, ENCODER, METRICS, WEIGHTS
from cvae.runtime import weights
from cvae.runtime.weights import scan_weights

ZOO = Path(__file__).resolve().parents[2] / "model_zoo"


def reasons(results: list[dict]) -> dict[str, str | None]:
    return {Path(result["path"]).name: result["reason"] for result in results}


@pytest.mark.parametrize("name", models())
def test_scan_accepts_the_files_of_the_zoo(name):
    results = package.scan(ZOO / name)
    assert all(result["accepted"] and result["reason"] is None and result["checks"] for result in results)
    assert {DECODER, ENCODER, CONFIG, METRICS} <= reasons(results).keys()


def test_scan_states_bounds_of_a_graph_that_are_at_least_its_products(trained):
    """The decoder is a multilayer perceptron: it multiplies each weight of its matrices once per image."""
    path = trained["plain"] / DECODER
    (result,) = package.scan(path)
    products = sum(int(np.prod(weight.dims)) for weight in onnx.load(path).graph.initializer if len(weight.dims) == 2)
    bounds = result["bounds"]
    assert products <= bounds["multiplications_per_image"] <= 1.5 * products
    assert bounds["bytes_per_image"] >= 4 * 64 and bounds["bytes_per_run"] == 64 * bounds["bytes_per_image"]


def test_scan_command_exits_with_1_if_a_file_is_rejected(cvae, trained, tmp_path):
    bad = tmp_path / DECODER
    bad.write_bytes((trained["plain"] / DECODER).read_bytes()[:-1])
    assert cvae("scan", trained["plain"], "--json").json["files"] == package.scan(trained["plain"])
    result = cvae("scan", trained["plain"] / DECODER, bad)
    accepted, rejected = result.out.splitlines()
    assert result.code == 1 and accepted.startswith("accepted") and rejected.startswith("rejected")
    assert str(bad) in rejected and not result.err
    files = cvae("scan", bad, "--json")
    assert files.code == 1 and json.loads(files.out)["files"][0]["accepted"] is False


def test_scan_rejects_files_that_are_not_regular(trained, tmp_path):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    for name in (METRICS, DECODER, CONFIG):
        (run / name).unlink()
    os.mkfifo(run / METRICS)
    (run / DECODER).mkdir()
    (run / CONFIG).symlink_to("/dev/zero")
    results = reasons(package.scan(run))
    assert {name for name, reason in results.items() if reason} == {METRICS, DECODER, CONFIG}
    assert all("not a file" in (results[name] or "") for name in (METRICS, DECODER, CONFIG))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda data: data[:-1], "cut off"),
        (lambda data: data + b"\0", "more bytes"),
        (lambda data: data[:-4] + np.float32("nan").tobytes(), "not finite"),
        (lambda data: data.replace(b'"F32"', b'"F64"', 1), "do not match its shape"),
        (lambda data: data.replace(b'"F32"', b'"F33"', 1), "F33"),
    ],
)
def test_scan_rejects_damaged_weights(trained, tmp_path, edit, words):
    path = tmp_path / WEIGHTS
    path.write_bytes(edit((trained["plain"] / WEIGHTS).read_bytes()))
    (result,) = package.scan([path])
    assert not result["accepted"] and words in result["reason"]


@pytest.mark.parametrize(("dtype", "nan"), [("F32", b"\0\0\xc0\x7f"), ("F16", b"\0\x7e"), ("BF16", b"\xc0\x7f")])
def test_scan_weights_finds_every_value_that_is_not_finite(tmp_path, monkeypatch, dtype, nan):
    monkeypatch.setattr(weights, "BLOCK", 3)
    path, count, header = tmp_path / WEIGHTS, 7, {}
    for name, start in (("a", 0), ("b", count * len(nan))):
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [start, start + count * len(nan)]}
    start = json.dumps(header).encode()
    start = struct.pack("<Q", len(start)) + start
    path.write_bytes(start + bytes(2 * count * len(nan)))
    assert scan_weights(path) == 2 * count
    for i in range(2 * count):
        values = bytearray(2 * count * len(nan))
        values[i * len(nan) : (i + 1) * len(nan)] = nan
        path.write_bytes(start + values)
        with pytest.raises(package.CvaeError, match=f"'{'a' if i < count else 'b'}' holds values that are not finite"):
            scan_weights(path)


def test_scan_rejects_files_that_are_not_what_their_name_says(tmp_path):
    shutil.copy(ZOO / "mnist-resnet-conditional" / ENCODER, tmp_path / DECODER)
    (tmp_path / CONFIG).symlink_to(tmp_path / "nowhere")
    results = reasons(package.scan(tmp_path))
    assert "contains the encoder" in (results[DECODER] or "") and "broken link" in (results[CONFIG] or "")


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Give up the right of root to read every folder, if the tests run as root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


@pytest.mark.usefixtures("unprivileged")
def test_folder_without_permission_is_reported():
    folder = Path(tempfile.mkdtemp())  # `tmp_path` belongs to root
    (folder / "locked").mkdir()
    (folder / "locked" / DECODER).write_bytes(b"")
    (folder / "run").mkdir()
    (folder / "run" / DECODER).symlink_to(folder / "locked" / DECODER)
    (folder / "locked").chmod(0)
    try:
        for path in (folder / "locked", folder / "locked" / DECODER):
            with pytest.raises(package.CvaeError, match=f"can't read '{path}': Permission denied"):
                package.scan(path)
        (result,) = package.scan(folder / "run")
        assert not result["accepted"] and result["reason"].endswith(f"/run/{DECODER}': Permission denied")
        (folder / "locked").chmod(0o400)  # the names can be read, but not the files
        (result,) = package.scan(folder / "locked")
        assert not result["accepted"] and result["reason"].endswith("Permission denied")
    finally:
        (folder / "locked").chmod(0o700)
        shutil.rmtree(folder)


def test_scan_weights_counts_the_values_that_torch_reads(trained):
    from safetensors.torch import load_file

    path = trained["labels"] / WEIGHTS
    assert scan_weights(path) == sum(tensor.numel() for tensor in load_file(path).values())


def test_scan_checks_images(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png", compress_level=1)
    results = package.scan([tmp_path / "small.png", tmp_path / "large.png"])
    assert [result["accepted"] for result in results] == [True, False]


@pytest.mark.parametrize("name", ["missing.onnx", "text.txt", "folder"])
def test_scan_requires_a_file_that_cvae_reads(tmp_path, name):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=name):
        package.scan(tmp_path / name)
