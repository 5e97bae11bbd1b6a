"""Split that a function uses if the caller does not name one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cvae
from cvae.errors import UsageError

FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "evaluate": (cvae.evaluate, {"generated": 0, "exported": True}),
    "traverse": (cvae.plot.traverse, {"dimensions": 2, "steps": 2}),
    "reconstructions": (cvae.plot.reconstructions, {}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_missing_test_split_is_replaced_by_validation_split_and_reported_once(name: str, in_tmp: Path) -> None:
    function, options = FUNCTIONS[name]
    np.savez("set.npz", train=np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8))
    notes: list[str] = []
    result = function("mnist-resnet-flow", data="npz:set.npz", binarize="none", note=notes.append, **options)
    report = result["protocol"] if name == "evaluate" else cvae.plot.describe(result)
    assert 2 < report["images"] < 9 and report.get("split", "validation") == "validation"
    assert [note for note in notes if "using its validation images" in note] == [
        "the data set 'set' has no test images: using its validation images"
    ]
    with pytest.raises(UsageError, match=r"'set' has no test images; use --split validation$"):
        function("mnist-resnet-flow", data="npz:set.npz", split="test", **options)
