"""Export to the self-describing ONNX files `decoder.onnx` and `encoder.onnx`, whose outputs are compared with torch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cvae.engine.checkpoint import load_model_and_hash
from cvae.errors import CvaeError
from cvae.exporters.base import requires_weights, write_files
from cvae.exporters.card import can_overwrite_card, make_card
from cvae.exporters.onnx.graph import halve, set_metadata, to_onnx
from cvae.exporters.onnx.parity import BATCHES, HALF_TOLERANCE, TOLERANCE, compare
from cvae.exporters.onnx.wrappers import ROLES, build_spec
from cvae.run import CARD
from cvae.runtime.scan import scan
from cvae.spec import Spec


@requires_weights
def export(
    run: str | Path,
    note: Callable[[str], None] | None = None,
    *,
    license: str | None = None,
    half: bool = False,
) -> list[Path]:
    """Write `decoder.onnx`, `encoder.onnx` and a model card into a run folder, all files or none.

    A card that was edited by hand is not overwritten.

    Args:
        run: folder of a trained run.
        note: called with a message about each graph, after its comparison with torch.
        license: license of the weights, as an SPDX identifier such as Apache-2.0.
        half: whether to store the weights in 16 bits, which halves the size of the files. Inputs, outputs and
            computation stay float32.

    Returns:
        The paths of the files.

    Raises:
        CvaeError: If the run is damaged, if a graph differs from torch by more than 1e-5 or, with `half`, by more than
            a grey level (see `compare`), or if `cvae.runtime.scan` rejects a file.
    """
    with _one_thread():
        return _export(Path(run), note, license, half)


def _export(run: Path, note: Callable[[str], None] | None, license: str | None, half: bool) -> list[Path]:
    overwrite_card = can_overwrite_card(run / CARD)  # before any work, because it may fail
    model, config, weights = load_model_and_hash(run)
    files: dict[Path, bytes] = {}
    specs: dict[str, Spec] = {}
    for role, wrapper in ROLES.items():
        spec = build_spec(model, config, role, name=run.resolve().name, weights=weights, license=license)
        graph = to_onnx(wrapper(model), spec)
        if half:
            halve(graph)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        difference = compare(graph, wrapper(model), spec, tolerance)
        if math.isnan(difference):
            raise CvaeError(
                f"the {role} of {str(run)!r} returns values that are not finite for samples of the model, so nothing "
                "was written: the weights have diverged; train again with a lower --lr, or with --clip"
            )
        if not difference <= tolerance:
            raise CvaeError(
                f"the {role} of {str(run)!r} differs from torch by {difference:.2e}, more than {tolerance:.0e} of the "
                "scale of its outputs, so nothing was written: the graph does not compute what the network computes; "
                "check the operators of your plug-ins, or report this with the run's config.json"
            )
        agreement: dict[str, Any] = {"max_abs_difference": float(f"{difference:.3g}"), "batches": list(BATCHES)}
        if half:
            agreement["weights"] = "float16"
        specs[role] = replace(spec, agreement=agreement)
        set_metadata(graph, specs[role])
        data = graph.SerializeToString(deterministic=True)
        scan(data, specs[role], f"{role}.onnx")  # a file that `cvae.load` would reject must not be written
        files[run / f"{role}.onnx"] = data
        if note is not None:
            note(f"{role}.onnx: {len(data):,} bytes, within {agreement['max_abs_difference']} of torch")
    if overwrite_card:
        files[run / CARD] = make_card(run, specs["decoder"]).encode()
    return write_files(files)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread.

    The networks are small, and two threads that wait for each other take several times as long if other processes use
    the CPU too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
