"""From what a user names, or leaves out, to the files of a model."""

from pathlib import Path

from cvae import model_zoo
from cvae.errors import UsageError, suggest
from cvae.run import CONFIG, DECODER, RUNS, is_run, list_runs, newest_run
from cvae.runtime import hub


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
    if path.is_file() or is_run(path) or (path / DECODER).is_file():
        return path
    if is_run(RUNS / name):
        return RUNS / name
    if name in zoo:
        return zoo[name]
    if path.exists():
        raise UsageError(f"{name!r} is no run: it holds neither {CONFIG} nor {DECODER}")
    if not zoo and newest_run() is None:
        raise UsageError(f"there is no run, file or zoo model {name!r}; make a run with: cvae train")
    known = [*(run.name for run in list_runs()), *zoo]
    raise UsageError(f"there is no run, file or zoo model {name!r}; {suggest(name, known)}")


def newest(name_or_path: str | Path | None = None) -> tuple[Path, str]:
    """Like `find`, but nothing named is the newest run under `runs/`, if any; with a word on what was chosen."""
    if name_or_path is not None:
        return find(name_or_path), ""
    if run := newest_run():
        return run, f"newest run: {run}"
    return find(), f"zoo model: {model_zoo.DEFAULT}"
