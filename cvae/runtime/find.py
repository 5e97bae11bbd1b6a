"""Lookup of models by name or path, with a default model."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from cvae import model_zoo
from cvae.errors import UsageError, suggest
from cvae.run import CONFIG, DECODER, RUNS, is_run, list_runs, newest_run
from cvae.runtime import hub


def find(name_or_path: str | Path | None = None) -> Path:
    """Return the path of a model: a run folder, the folder of a zoo model, or an exported file.

    Args:
        name_or_path: a run folder, an exported file, the name of a run under `runs/`, the name of a zoo model, or
            hf://owner/name[@revision], which is downloaded. None stands for the zoo's default model.

    Raises:
        UsageError: If there is no such model, or the installed package does not contain its files.
        CvaeError: If the model can't be downloaded.
    """
    if str(name_or_path).startswith(hub.SCHEME):
        return hub.fetch(str(name_or_path))
    zoo = model_zoo.models()
    if name_or_path is None and zoo:
        return zoo[model_zoo.DEFAULT]  # not a run of the same name, which may still be training
    name = model_zoo.DEFAULT if name_or_path is None else str(name_or_path)
    path = Path(name)
    if path.is_file() and _is_image(path):
        raise UsageError(f"{name!r} is an image, not a model; pass a run folder, an exported file or a zoo model")
    if path.is_file() or is_run(path) or (path / DECODER).is_file():
        return path
    if is_run(RUNS / name):
        return RUNS / name
    if name in zoo:
        return model_zoo.model(name)
    if path.exists():
        raise UsageError(f"{name!r} is not a run: it has neither {CONFIG} nor {DECODER}")
    raise UsageError(f"there is no run, file or zoo model {name!r}; {_suggest_model(name, zoo)}")


def _is_image(path: Path) -> bool:
    from cvae.imaging.formats import EXTENSIONS  # not at the top, because it imports Pillow

    return path.suffix.lower() in EXTENSIONS


def _suggest_model(name: str, zoo: Iterable[str]) -> str:
    """Return a hint for an unknown model name."""
    known = [*(run.name for run in list_runs()), *zoo]
    parent = Path(name).parent
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) is not None and not name.endswith(".onnx")
    if is_repository and parent != RUNS and not parent.exists():
        return f"for a model on the Hugging Face hub, use {hub.SCHEME}{name}"
    if known:
        return suggest(name, known)
    if getattr(sys, "frozen", False):  # a frozen program contains the zoo only if the build collects it
        return (
            "this program was built without the models that come with cvae: build it with --collect-data cvae "
            "(PyInstaller), or pass the path of an exported file to cvae.load"
        )
    return "train one with: cvae train"


def newest(name_or_path: str | Path | None = None) -> tuple[Path, str]:
    """Return the path of a model as `find` does, but let None stand for the newest run under `runs/`, if there is one.

    Returns:
        The path, and a description of the choice, which is empty unless `name_or_path` is None.
    """
    if name_or_path is not None:
        return find(name_or_path), ""
    if run := newest_run():
        return run, f"newest run: {run}"
    return find(), f"zoo model: {model_zoo.DEFAULT}"
