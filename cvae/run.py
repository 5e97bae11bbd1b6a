"""Run folders: names of the files, readers of the config and metrics, and lists of runs. Does not import torch."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.atomic import read_at_most
from cvae.errors import CvaeError
from cvae.serialization import MAX_TEXT

if TYPE_CHECKING:  # `cvae generate` needs only the names of files, and starts faster without the config
    from cvae.config import Config

RUNS = Path("runs")
"""Folder in which `cvae train` creates runs, in the current working directory."""

# Names of the files and folders in a run folder. An export writes DECODER, ENCODER and CARD.
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CHECKPOINTS = "last"
METRICS = "metrics.jsonl"
SAMPLES = "samples"
CURVES, SAMPLE_GRID, RECONSTRUCTIONS = "curves.png", "samples.png", "reconstructions.png"
DECODER, ENCODER = "decoder.onnx", "encoder.onnx"
CARD = "README.md"

MAX_METRICS_BYTES, MAX_METRICS_OBJECTS = 2**24, 2**18
"""Maximum size of the metrics in bytes, and maximum number of JSON objects in them: enough for 50,000 epochs."""


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run, that is, whether it contains a config."""
    return (folder / CONFIG).is_file()


def find_run(name: str | Path) -> Path | None:
    """Return the folder of a run, given by its path or its name under `RUNS`, or None if there is no such run."""
    return next(filter(is_run, (Path(name), RUNS / name)), None)


def contains_runs(folder: Path) -> bool:
    """Return whether a folder is a run that cvae has written, or a folder called `RUNS` that contains such runs."""
    configs = folder.glob(f"*/{CONFIG}") if folder.name == RUNS.name else ()
    return any(map(_is_config, (folder / CONFIG, *configs)))


def _is_config(path: Path) -> bool:
    """Return whether a file called `CONFIG`, which is a common name, was written by any version of cvae."""
    try:
        return b'"cvae_version"' in read_at_most(path, MAX_TEXT)
    except CvaeError:
        return False


def has_weights(folder: Path) -> bool:
    """Return whether a folder is a run with the weights of its model."""
    return is_run(folder) and (folder / WEIGHTS).is_file()


def read_config(run: Path) -> "Config":
    """Read the config of a run.

    Raises:
        CvaeError: If the config can't be read, is not valid, or was written by a newer version of cvae.
    """
    from cvae.config import Config

    return Config.read(run / CONFIG)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run: a record for each epoch, and a last record for the test images.

    Raises:
        CvaeError: If the file does not exist, can't be read or is too large, or a line is not a JSON object.
    """
    path = run / METRICS
    if not path.exists():
        raise CvaeError(f"can't read {str(path)!r}, which cvae train writes: No such file or directory")
    text = read_at_most(path, MAX_METRICS_BYTES).decode("utf-8", errors="replace")
    if text.count("{") + text.count("[") > MAX_METRICS_OBJECTS:
        raise CvaeError(f"{str(path)!r} is damaged: it has more than {MAX_METRICS_OBJECTS:,} JSON objects")
    lines, records = text.splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is not JSON") from error
        if not isinstance(record, dict):
            raise CvaeError(f"{str(path)!r} is damaged: line {number} is not a JSON object")
        records.append(record)
    return records


def selection_bound(metrics: dict[str, float]) -> float:
    """Return the bound that selects the best weights: the importance-weighted bound if it was computed, else the ELBO.

    An importance-weighted objective improves its own bound at the expense of the ELBO.
    """
    return metrics.get("importance_weighted", metrics["bound"])


def saved_epoch(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of the epoch whose weights are saved, or {} if no epoch has ended.

    It is the epoch with the best validation bound, or the last epoch if there are no validation images, or losses on
    images, which worsen the bound.
    """
    if saved := [record for record in records if record.get("saved")]:
        return saved[-1]
    validated = [record for record in records if "validation" in record]
    if validated:
        return min(validated, key=lambda record: selection_bound(record["validation"]))
    return next((record for record in reversed(records) if "train" in record), {})


def sample_path(run: Path, epoch: int, kind: str) -> Path:
    """Return the path of an epoch's sample image; `kind` is "samples", "interpolations" or "reconstructions"."""
    return run / SAMPLES / f"epoch-{epoch:04d}-{kind}.png"


def sample_images(run: Path, kind: str) -> dict[int, Path]:
    """Return the paths of the sample images of one kind by epoch, the earliest epoch first."""
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
        if (path / CHECKPOINTS).is_dir() and not is_finished(path):
            raise CvaeError(
                f"{str(path)!r} has no {name}, because its training has not finished; finish it with: cvae train "
                f"--resume --out {path}, or export the best weights so far with: cvae export onnx {path}"
            )
        raise CvaeError(f"{str(path)!r} has no {name}; create it with: cvae export onnx {path}")
    return path / name


def list_runs(folder: Path = RUNS) -> list[Path]:
    """List the runs in `folder` that have weights, newest first."""
    runs = [path.parent for path in folder.glob(f"*/{WEIGHTS}")]
    return sorted(runs, key=lambda run: (run / WEIGHTS).stat().st_mtime_ns, reverse=True)


def newest_run(folder: Path = RUNS) -> Path | None:
    """Return the run in `folder` with the newest weights, if any."""
    return next(iter(list_runs(folder)), None)


def list_started_runs(folder: Path = RUNS) -> list[Path]:
    """List the runs in `folder`, including those without weights. The run with the newest checkpoint comes first."""

    def last_modified(run: Path) -> int:
        # A run that was killed before its first checkpoint has only a config.
        paths = list((run / CHECKPOINTS).glob("*.json")) or [run / CONFIG]
        return max(path.stat().st_mtime_ns for path in paths)

    return sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=last_modified, reverse=True)


def last_saved_run(folder: Path = RUNS) -> Path | None:
    """Return the run in `folder` with the newest checkpoint, if any; the run may not have weights yet."""
    return next(iter(list_started_runs(folder)), None)


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


# -- comparison of runs ------------------------------------------------------------------------------------------------


def is_finished(run: Path) -> bool:
    """Return whether the training of a run has ended. A damaged run counts as unfinished.

    The last record of a finished run is that of the test images or, without test images, that of the last epoch. A run
    without metrics and checkpoints whose weights exist was made by a script, so nothing remains to be trained.
    """
    if has_weights(run) and not (run / METRICS).exists() and not (run / CHECKPOINTS).exists():
        return True
    try:
        records = read_metrics(run)
        epochs = read_config(run).training.epochs
        last = records[-1] if records else {}
        if epochs is None:  # the run has a time budget
            is_complete = last.get("step", 0) >= last.get("total_steps", math.inf)
        else:
            is_complete = len(records) >= epochs
    except (CvaeError, TypeError):
        return False
    return is_complete or any("test" in record for record in records)


def compare_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the bounds, epochs and time of each run, and the flags that differ between the runs.

    Args:
        runs: Folders of runs, which may be unfinished or damaged.

    Returns:
        For each run: `run`, its path; `finished`; `epochs` and `total_epochs`; `seconds` of training; the best
        `validation` bound and the `test` bound, in nats per image; `exported`; `flags`, the flags that differ;
        and `error`, if the run is damaged. Unknown values are None.
    """
    rows, settings = [], []
    for run in runs:
        row: dict[str, Any] = {
            "run": str(run),
            "finished": False,
            "epochs": None,
            "total_epochs": None,
            "seconds": None,
            "validation": None,
            "test": None,
            "exported": (run / DECODER).is_file(),
            "flags": {},
            "error": None,
        }
        try:
            config = read_config(run)
            row["total_epochs"] = config.training.epochs
            row |= _summarize(read_metrics(run) if (run / METRICS).exists() else [])
            row["finished"] = is_finished(run)
        except CvaeError as error:
            row["error"] = str(error)
        else:
            settings.append(_read_settings(config))
        rows.append(row)
    all_values: dict[str, list[Any]] = {}
    for values in settings:
        for key, (_, value) in values.items():
            all_values.setdefault(key, []).append(value)
    differing = {key for key, values in all_values.items() if any(value != values[0] for value in values)}
    intact = [row for row in rows if row["error"] is None]
    for row, values in zip(intact, settings, strict=True):
        row["flags"] = {spelling: value for key, (spelling, value) in values.items() if key in differing}
    return rows


def _summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the bounds, the number of epochs and the training time from the metrics of a run.

    Raises:
        CvaeError: If a record does not have the format that training writes.
    """
    try:
        validation = [float(selection_bound(record["validation"])) for record in records if "validation" in record]
        test = [float(selection_bound(record["test"])) for record in records if "test" in record]
        seconds = round(sum(record.get("seconds", 0) for record in records), 3)
        if not all(map(math.isfinite, [seconds, *validation, *test])):
            raise ValueError("a number is not finite")
        return {
            "epochs": sum("epoch" in record for record in records),
            "seconds": seconds,
            "validation": min(validation, default=None),
            "test": test[-1] if test else None,
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CvaeError(f"{METRICS} is damaged: {error!r}") from error


def _read_settings(config: "Config") -> dict[str, tuple[str, Any]]:
    """Return the flags of a run, except those that describe the machine, as pairs of spelling and value.

    The key of an option contains the name of its part, because options of different parts can't be compared.
    """
    from cvae.config import SHORT_FLAGS, TrainConfig, flag
    from cvae.flags import flags_of

    training = config.training
    settings = {
        name: (flag(name), getattr(training, name))
        for name, field in flags_of(TrainConfig).items()
        if not field.machine and name != "epochs"
    }
    parts = {name: (part.name, part.options) for name, part in config.model.parts.items()}
    for key, name in training.training_parts.items():
        parts[key] = (name, training.options.get(key, {}))
    for kind, (part, options) in parts.items():
        for option, value in options.items():
            is_short = option in SHORT_FLAGS and SHORT_FLAGS[option].part == kind
            settings[f"{kind} {part} {option}"] = (flag(option) if is_short else f"--set {kind}.{option}", value)
    return settings
