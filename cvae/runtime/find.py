"""From what a user names, or leaves out, to the files of a model."""

from pathlib import Path

from cvae import model_zoo
from cvae.errors import CvaeError, UsageError, near
from cvae.runtime import hub

RUNS = Path("runs")
"""Where `cvae train` puts its runs, in the working folder."""

DECODER, ENCODER = hub.FILES


def runs(folder: Path = RUNS) -> list[Path]:
    """The run folders in `folder`, the newest first."""
    found = [path.parent for path in folder.glob("*/model.safetensors")]
    return sorted(found, key=lambda run: (run / "model.safetensors").stat().st_mtime_ns, reverse=True)


def find(name_or_path: str | Path | None = None) -> Path:
    """A run folder, an exported file, or the name of a run under `runs/` or of a zoo model -> where it is.

    hf://owner/name is downloaded. None: the zoo's default model.

    Raises:
        UsageError: there is no such thing.
        CvaeError: it can't be downloaded.
    """
    if str(name_or_path).startswith(hub.SCHEME):
        return hub.fetch(str(name_or_path))
    zoo = model_zoo.models()
    if name_or_path is None and zoo:
        return zoo[model_zoo.DEFAULT]  # not a run of that name, which may be half trained
    name = model_zoo.DEFAULT if name_or_path is None else str(name_or_path)
    path = Path(name)
    if path.is_file() or (path / "config.json").is_file() or (path / DECODER).is_file():
        return path
    if (RUNS / name / "config.json").is_file():
        return RUNS / name
    if name in zoo:
        return zoo[name]
    if path.exists():
        raise UsageError(f"{name!r} is no run: it holds neither config.json nor {DECODER}")
    if not zoo and not runs():
        raise UsageError(f"there is no run, file or zoo model {name!r}; make a run with: cvae train")
    known = [*(run.name for run in runs()), *zoo]
    raise UsageError(f"there is no run, file or zoo model {name!r}; {near(name, known)}")


def newest(name_or_path: str | Path | None = None) -> tuple[Path, str]:
    """Like `find`, but nothing named is the newest run under `runs/`, if any; with a word on what was chosen."""
    if name_or_path is not None:
        return find(name_or_path), ""
    if candidates := runs():
        return candidates[0], f"newest run: {candidates[0]}"
    return find(), f"zoo model: {model_zoo.DEFAULT}"


def exported(path: Path, name: str) -> Path:
    """The file `name` (decoder.onnx, encoder.onnx) of a run folder, or the one beside or at a file's path.

    Raises:
        CvaeError: the run was not exported; the message gives the command.
    """
    if path.is_file():
        if name == DECODER:
            return path
        path = path.parent
    if not (path / name).is_file():
        raise CvaeError(f"{str(path)!r} has no {name}; make it with: cvae export onnx {path}")
    return path / name
