"""Loading of exported models, by name and from a pickle."""

from pathlib import Path
from typing import Any

from cvae.errors import CvaeError
from cvae.run import DECODER, exported_file
from cvae.runtime.find import find
from cvae.runtime.model import Model
from cvae.runtime.weights import hash_file


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    spinning: bool = False,
    arena: bool = False,
    time_limit: float | None = None,
) -> Model:
    """Load an exported model.

    Args:
        name_or_path: A run folder, the file of a decoder, the name of a run under `runs/` or of a zoo model, or
            hf://owner/name[@revision], which is downloaded from the hub. None loads the zoo's default model.
        device: "cpu", "cuda", "auto" or the name of an onnxruntime provider. An unavailable device is an error.
        threads: Number of threads that one call uses; one per core by default.
        spinning: Let the threads spin between calls, which is faster in a tight loop but uses CPU time.
        arena: Keep freed memory for the next call.
        time_limit: Maximum number of seconds for loading an untrusted file, and for each call of a method.

    Returns:
        The model.

    Raises:
        UsageError: If there is no such model or device, or the weights of the run differ from those that its decoder
            was exported from.
        CvaeError: If a file is damaged, was not exported by cvae, has not been exported yet, or can't be downloaded.
    """
    options = {"threads": threads, "spinning": spinning, "arena": arena, "time_limit": time_limit}
    return Model(find(name_or_path), device=device, **options)


def unpickle(path: Path, options: dict[str, Any], digest: str) -> Model:
    """Load a pickled model.

    Raises:
        CvaeError: If the decoder's file is missing, or has changed since the model was pickled.
    """
    file = exported_file(path, DECODER)
    if hash_file(file) != digest:
        raise CvaeError(f"{str(file)!r} has changed since the model was pickled; load it again with cvae.load")
    return Model(path, **options)
