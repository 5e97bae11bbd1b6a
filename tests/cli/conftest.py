"""Fixtures for the tests of the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image


@pytest.fixture
def image_files(in_tmp) -> list[Path]:
    """Write two grey images of the size that the models expect."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(f"{name}.png")
    return [Path("a.png"), Path("b.png")]


def snapshot() -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path().rglob("*")}


@pytest.fixture
def assert_fails(cvae) -> Callable[..., None]:
    """Return a function that checks that a command exits with `code`, prints one error line and changes no file."""

    def check(code: int, words: list[str], *args: object) -> None:
        before = snapshot()
        result = cvae(*args)
        *notes, line = result.err.splitlines()
        assert (result.code, result.out) == (code, ""), result.err
        assert line.startswith("cvae: error: ") and result.err.endswith("\n")
        assert not [note for note in notes if "rror" in note or "Traceback" in note or "Warn" in note]
        assert [word for word in words if word not in line] == [], line
        assert snapshot() == before

    return check


@pytest.fixture
def wrong_files(in_tmp) -> None:
    """Write files and folders that a user may pass to a command by mistake."""
    Path("empty-folder").mkdir()
    Path("a-file").write_text("text")
    Path("text.png").write_text("this is not an image")
    Path("text.onnx").write_text("this is not a model\n" * 30)
    Path("unknown-key.toml").write_text("epochz = 3\n")
    Path("invalid.toml").write_text("= 3\n")
    Path("wrong-type.toml").write_text('epochs = "3"\n')
    Image.new("L", (8, 8)).save("seven.png")
    source = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    target = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [source], [target])
    onnx.save(onnx.helper.make_model(graph), "foreign.onnx")
