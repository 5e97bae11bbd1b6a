"""Check of untrusted files, without using them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvae.errors import CvaeError, UsageError
from cvae.run import DECODER, ENCODER, exported_file


def scan(paths: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
    """Check untrusted files as cvae checks them before it uses them, like `cvae scan`.

    No file is run, and PyTorch is not imported. Whether the weights fit the config is checked when they are loaded.

    Args:
        paths: One or more exported files, files of a run, images, or folders of runs. Of a folder, the files that cvae
            reads are checked, except the checkpoints in `last/`.

    Returns:
        For each file a dictionary of its "path", its "kind", whether it is "accepted", the "reason" why it is rejected
        or None, the "checks" that it had to pass, and "bounds". For an exported file, these are upper bounds: the
        memory of the tensors for one image ("bytes_per_image") and for the largest number of images that are decoded at
        once ("bytes_per_run"), and "multiplications_per_image". For another file, there are no bounds.

    Raises:
        UsageError: If a path does not exist, or is not a file or folder that cvae reads.
        CvaeError: If a folder can't be read.
    """
    return [_scan_file(file) for path in _as_list(paths) for file in _list_files(Path(path))]


def _as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else paths


def _list_files(path: Path) -> list[Path]:
    try:
        exists, names = path.exists(), [file.name for file in path.iterdir()] if path.is_dir() else None
    except OSError as error:  # such as a folder without permission
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    if names is not None:
        files = [path / name for name in _SCANS if name in names]
        if not files:
            raise UsageError(f"{str(path)!r} has none of the files of a run: {', '.join(_SCANS)}")
        return files
    if not exists:
        raise UsageError(f"there is no file or folder {str(path)!r}")
    if _find_scan(path) is None:
        raise UsageError(
            f"{str(path)!r} is neither an exported file nor an image, nor a file of a run; pass one of these, or a run"
        )
    return [path]


def _scan_file(path: Path) -> dict[str, Any]:
    entry = _find_scan(path)
    assert entry is not None
    kind, checks, check = entry
    reason, bounds = None, None
    try:
        if not path.is_file():  # such as a pipe, which would block
            raise CvaeError(f"{str(path)!r} is not a file that can be read, but a folder, a device or a broken link")
        bounds = check(path)
    except CvaeError as error:
        reason = str(error)
    except OSError as error:  # such as a folder without permission
        reason = f"can't read {str(path)!r}: {error.strerror}"
    return {
        "path": str(path),
        "kind": kind,
        "accepted": reason is None,
        "reason": reason,
        "checks": checks,
        "bounds": bounds,
    }


def _scan_export(path: Path) -> dict[str, int]:
    from cvae.runtime.scan import scan as scan_graph
    from cvae.runtime.session import max_batch, read_spec

    spec, data = read_spec(path)
    if path.name in (DECODER, ENCODER) and path.stem != spec.role:
        raise CvaeError(f"{str(path)!r} contains the {spec.role}; export both again with: cvae export onnx")
    cost = scan_graph(data, spec, str(path))
    return {
        "bytes_per_image": 4 * cost.elements,
        "bytes_per_run": 4 * cost.elements * max_batch(cost),
        "multiplications_per_image": cost.work,
    }


def _scan_weights(path: Path) -> None:
    from cvae.runtime.weights import scan_weights

    scan_weights(path)


def _scan_config(path: Path) -> None:
    from cvae.config import Config

    Config.read(path)


def _scan_metrics(path: Path) -> None:
    from cvae.run import read_metrics

    read_metrics(path.parent)


def _scan_detector(path: Path) -> None:
    from cvae.detection.detector import Detector
    from cvae.runtime.session import read_spec

    Detector.load(path.parent, read_spec(exported_file(path.parent, DECODER))[0])


def _scan_image(path: Path) -> None:
    from cvae.imaging.reader import check_file

    check_file(path)


_EXPORT_CHECKS = ["size", "protobuf", "spec", "operators", "shapes", "memory", "multiplications"]

_SCANS: dict[str, tuple[str, list[str], Callable[[Path], Any]]] = {
    "decoder.onnx": ("exported file", _EXPORT_CHECKS, _scan_export),
    "encoder.onnx": ("exported file", _EXPORT_CHECKS, _scan_export),
    "config.json": ("config", ["size", "JSON", "keys", "types", "ranges"], _scan_config),
    "model.safetensors": ("weights", ["size", "header", "shapes", "finite values"], _scan_weights),
    "metrics.jsonl": ("metrics", ["size", "JSON"], _scan_metrics),
    "detector.json": (
        "detector",
        ["size", "JSON", "keys", "types", "shapes", "finite values", "model"],
        _scan_detector,
    ),
}
"""For each file of a run its kind, the names of the checks, and the function that performs them."""


def _find_scan(path: Path) -> tuple[str, list[str], Callable[[Path], Any]] | None:
    """Return the entry of `_SCANS` that fits a file, or None."""
    from cvae.imaging.formats import EXTENSIONS

    if path.suffix.lower() in EXTENSIONS:
        return "image", ["header", "lists of parts", "memory"], _scan_image
    by_extension = {".onnx": "decoder.onnx", ".safetensors": "model.safetensors"}
    return _SCANS.get(by_extension.get(path.suffix.lower(), path.name))
