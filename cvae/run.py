"""Run folders: names of the files, readers of the config and metrics, and lists of runs. Does not import torch."""

import json
import re
from pathlib import Path
from typing import Any

from cvae.config import Config
from cvae.errors import CvaeError

RUNS = Path("runs")
"""Folder in which `cvae train` creates runs, in the current working directory."""

# Names of the files and folders in a run folder. The export writes the last three.
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CHECKPOINTS = "last"
METRICS = "metrics.jsonl"
SAMPLES = "samples"
CURVES, SAMPLE_GRID, RECONSTRUCTIONS = "curves.png", "samples.png", "reconstructions.png"
DECODER, ENCODER = "decoder.onnx", "encoder.onnx"
CARD = "README.md"


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run: whether it contains a config."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Return whether a folder is a run with the weights of its model."""
    return is_run(folder) and (folder / WEIGHTS).is_file()


def read_config(run: Path) -> Config:
    """Read the config of a run.

    Raises:
        CvaeError: If the config can't be read, is not valid, or was written by a newer version of cvae.
    """
    return Config.read(run / CONFIG)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run: a record for each epoch, and a last record for the test images.

    Raises:
        CvaeError: If the file can't be read, or a line is not a JSON object.
    """
    path = run / METRICS
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}, which cvae train writes: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is not JSON") from error
        if not isinstance(record, dict):
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is not a JSON object")
        records.append(record)
    return records


def sample_path(run: Path, epoch: int, kind: str) -> Path:
    """Return the path of an epoch's sample image of kind "samples", "interpolations" or "reconstructions"."""
    return run / SAMPLES / f"epoch-{epoch:04d}-{kind}.png"


def sample_images(run: Path, kind: str) -> dict[int, Path]:
    """Return the paths of the sample images of one kind by epoch, in ascending order."""
    images = {}
    for path in (run / SAMPLES).glob(f"epoch-*-{kind}.png"):
        if match := re.fullmatch(rf"epoch-(\d+)-{kind}", path.stem):
            images[int(match[1])] = path
    return dict(sorted(images.items()))


def exported_file(path: Path, name: str) -> Path:
    """Return the path of an exported file.

    Args:
        path: folder of a run, or path of a decoder.
        name: `DECODER`, or `ENCODER` for the encoder in the same folder.

    Raises:
        CvaeError: If there is no such file; the message names the command that exports it.
    """
    if path.is_file():
        if name == DECODER:
            return path
        path = path.parent
    if not (path / name).is_file():
        raise CvaeError(f"{str(path)!r} has no {name}; create it with: cvae export onnx {path}")
    return path / name


def list_runs(folder: Path = RUNS) -> list[Path]:
    """List the runs in `folder` that have weights, newest first."""
    runs = [path.parent for path in folder.glob(f"*/{WEIGHTS}")]
    return sorted(runs, key=lambda run: (run / WEIGHTS).stat().st_mtime_ns, reverse=True)


def newest_run(folder: Path = RUNS) -> Path | None:
    """Return the run in `folder` with the newest weights, if any."""
    return next(iter(list_runs(folder)), None)


def last_saved_run(folder: Path = RUNS) -> Path | None:
    """Return the run in `folder` with the newest checkpoint, if any; the run may not have weights yet."""

    def last_modified(run: Path) -> int:
        # A run that was killed before its first checkpoint has only a config.
        paths = list((run / CHECKPOINTS).glob("*.json")) or [run / CONFIG]
        return max(path.stat().st_mtime_ns for path in paths)

    return max((path.parent for path in folder.glob(f"*/{CONFIG}")), key=last_modified, default=None)


def create_run_folder(name: str) -> Path:
    """Create a folder for a run under `RUNS`, with a number appended to `name` if it is taken.

    Creating the folder reserves the name, so that two runs that start at the same time get different names.

    Raises:
        CvaeError: If the folder can't be created, or there are too many runs of this name.
    """
    for path in [RUNS / name, *(RUNS / f"{name}-{i}" for i in range(2, 10_000))]:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise CvaeError(f"can't write {str(path)!r}: {error.strerror}; name a folder with --out") from error
    raise CvaeError(f"{str(RUNS)!r} has too many runs called {name!r}; name a folder with --out")
