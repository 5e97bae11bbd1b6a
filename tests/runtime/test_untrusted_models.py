"""Untrusted exported files: hostile files cause one-line errors, within a second and 200 MB of memory."""

import copy
import os
import shutil
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile_contents  # noqa: F401 (registers edits)
import hostile_graphs  # noqa: F401 (registers edits)
import hostile_specs  # noqa: F401 (registers edits)
import hostile_tensors  # noqa: F401 (registers edits)
import onnx
import pytest
from model_edits import EDITS, constant
from untrusted import assert_rejected, fuzz_in_process

from cvae.errors import CvaeError
from cvae.runtime import session
from cvae.runtime.scan import scan
from cvae.runtime.session import read_spec

ZOO = Path(__file__).resolve().parents[2] / "model_zoo" / "mnist-resnet-conditional"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit memory in this way")


@pytest.fixture(scope="module")
def hostile_models(trained, tmp_path_factory) -> Path:
    """Return a folder with hostile files and one valid file."""
    folder, valid = tmp_path_factory.mktemp("untrusted"), trained["labels"] / "decoder.onnx"
    shutil.copy(valid, folder / "_valid.onnx")
    (folder / ".link").symlink_to("/etc/passwd")
    for name, edit in EDITS.items():
        model = onnx.load(valid)
        data = edit(model)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString() if data is None else data)
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("this is not a model")
    (folder / "folder.onnx").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    (folder / "device.onnx").symlink_to("/dev/zero")
    with (folder / "larger_than_the_limit.onnx").open("wb") as file:
        file.truncate(session.MAX_BYTES + 1)
    return folder


@needs_linux
def test_session_rejects_hostile_models(hostile_models):
    """A single process loads all files, with a memory limit of 200 MB."""
    assert len(list(hostile_models.iterdir())) > 190
    assert_rejected(hostile_models)


@needs_linux
def test_scan_rejects_hostile_models_before_onnxruntime_does(hostile_models):
    """The scan rejects all hostile files except those with nonfinite weights, which the session rejects later."""
    accepted = []
    for name in EDITS:
        with suppress(CvaeError):
            spec, data = read_spec(hostile_models / f"{name}.onnx")
            scan(data, spec, "x")
            accepted.append(name)
    assert accepted == ["weights_nan", "weights_inf", "weights_-inf"]


def test_scan_rejects_costly_graphs_only_for_their_cost(trained):
    """The scan accepts the same graphs if they cost a hundredth as much."""
    spec, data = read_spec(trained["plain"] / "decoder.onnx")
    valid = onnx.load_from_string(data)
    cheap_constants: dict[str, Any] = {
        "resize": {"rest": [16, 16]},
        "pad": {"pads": [0, 0, 0, 0, 0, 0, 3, 3]},
        "expand_of_a_constant": {"wide": [4]},
        "constant_of_shape": {"wide": [4]},
        "long_chain_of_products": {},
        "repeated_doubling": {},
    }
    for name, constants in cheap_constants.items():
        model = copy.deepcopy(valid)
        EDITS[name](model)
        with pytest.raises(CvaeError, match="it costs too much for images"):
            scan(model.SerializeToString(), spec, "x")
        for initializer in model.graph.initializer:
            if initializer.name in constants:
                initializer.CopyFrom(constant(initializer.name, constants[initializer.name]))
        if constants:
            scan(model.SerializeToString(), spec, "x")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("declared_shapes", "the results of shape inference"),
        ("quantization", "the parameters of a quantization"),
        ("external_data_in_a_parent_folder", "weights in another file"),
        ("external_data_without_location", "weights in another file"),
    ],
)
def test_scan_says_what_another_program_has_added(hostile_models, name, content):
    with pytest.raises(CvaeError, match=f"it has {content}, .* use the file that cvae export onnx has written"):
        session.read_and_scan(hostile_models / f"{name}.onnx", "decoder")


@needs_linux
@pytest.mark.parametrize(
    ("name", "reason"),
    [("many_edges", "inputs"), ("nested_shape_vectors", "its inputs and attributes do not fit together")],
)
def test_scan_rejects_graphs_that_would_slow_down_the_scan_itself(hostile_models, name, reason):
    spec, data = read_spec(hostile_models / f"{name}.onnx")
    tracemalloc.start()
    try:
        with pytest.raises(CvaeError, match=reason):
            scan(data, spec, "x")
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert memory < 2**20, memory


def test_read_spec_rejects_file_truncated_to_any_number_of_kilobytes(tmp_path):
    data = (ZOO / "decoder.onnx").read_bytes()
    path = tmp_path / "truncated.onnx"
    path.write_bytes(data)
    for length in range(len(data) // 1024 * 1024, -1, -1024):
        os.truncate(path, length)
        with pytest.raises(CvaeError, match=r"truncated\.onnx"):
            read_spec(path)


# -- mutations ---------------------------------------------------------------------------------------------------------


def valid_files(trained: dict[str, Path]) -> list[Path]:
    return [trained["labels"] / "decoder.onnx", trained["plain"] / "encoder.onnx", ZOO / "decoder.onnx"]


@needs_linux
def test_session_rejects_or_runs_mutations_of_valid_files(trained, tmp_path):
    counts = fuzz_in_process(0, 400, valid_files(trained), tmp_path)
    print(counts)
    assert counts["rejected"] > 200 and counts["accepted"] > 10


@needs_linux
@pytest.mark.slow
def test_session_rejects_or_runs_ten_thousand_mutations(trained, tmp_path):
    total = dict.fromkeys(("rejected", "accepted", "by onnxruntime"), 0)
    for first in range(1000, 11_000, 2000):
        for outcome, count in fuzz_in_process(first, 2000, valid_files(trained), tmp_path).items():
            total[outcome] += count
    print(total)
    assert total["rejected"] + total["accepted"] == 10_000
