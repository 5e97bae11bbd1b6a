"""Functions that train a model and finish its run: export, curves and images.

Importing this module is cheap and needs no extra: each function imports what it needs when it is called.
"""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.config import TrainConfig
from cvae.errors import CvaeError, Interrupted, MissingExtraError, one_line
from cvae.messages import one_line_warnings
from cvae.run import CURVES, DECODER, ENCODER, RECONSTRUCTIONS, SAMPLE_GRID, read_config

if TYPE_CHECKING:
    from types import ModuleType

    from cvae.engine.display import Display
    from cvae.engine.trainer import OnEpoch
    from cvae.spec import Spec


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    export: bool = True,
    quiet: bool = False,
    on_epoch: "OnEpoch | None" = None,
) -> Path:
    """Train a new run, export its model to ONNX, and return the folder of the run.

    Args:
        config: What to train, and how.
        out: Folder of the run. It must not hold a run yet, unless torchrun has restarted the process, which resumes it.
        export: Whether to export the model at the end, as `cvae export onnx` does.
        quiet: Print nothing but warnings.
        on_epoch: Called with the record of each epoch once it is saved. An exception that it raises ends the run.

    Raises:
        UsageError: If parts of the config do not fit together. Nothing is written.
        CvaeError: If the data can't be read, the disk can't be written, or a process was lost; also if the export
            fails, after the run is complete.
        Diverged: If the loss or a gradient is not finite. The model is not exported.
        Interrupted: After the first Ctrl-C or SIGTERM. The run can be resumed.
    """
    with one_line_warnings():
        engine = _import_engine("cvae.train")
        run: Path = engine.train(config, out, quiet=quiet, on_epoch=on_epoch)
        _finish(run, export=export, quiet=quiet)
    return run


def resume(
    out: str | Path,
    *,
    data_dir: str | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    device: str | None = None,
    on_nan: str | None = None,
    compile: bool | None = None,
    trackers: tuple[str, ...] | None = None,
    export: bool = True,
    quiet: bool = False,
    on_epoch: "OnEpoch | None" = None,
) -> Path:
    """Resume a run from its newest intact checkpoint, export its model to ONNX, and return the folder of the run.

    Arguments other than None replace those that the run was started with. `epochs` is the total number of epochs.

    Raises:
        UsageError: If the run has more than `epochs` epochs already.
        CvaeError: If the folder is not a run, none of its checkpoints is intact, or the data have changed; also if the
            export fails, after the run is complete.
    """
    changes: dict[str, Any] = {
        "data_dir": data_dir,
        "epochs": epochs,
        "patience": patience,
        "device": device,
        "on_nan": on_nan,
        "compile": compile,
        "trackers": trackers,
    }
    with one_line_warnings():
        engine = _import_engine("cvae.resume")
        run: Path = engine.resume(out, quiet=quiet, on_epoch=on_epoch, **changes)
        _finish(run, export=export, quiet=quiet)
    return run


def _import_engine(feature: str) -> "ModuleType":
    try:
        from cvae import engine
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cvae"):
            raise
        raise MissingExtraError(feature) from error
    return engine


def _finish(run: Path, *, export: bool, quiet: bool) -> None:
    """Draw the curves of a complete run, export its model, and say what is in its folder and what to do next.

    Raises:
        CvaeError: If the export fails. Everything else is done before.
    """
    from cvae.engine.display import Display
    from cvae.engine.processes import is_main_process

    if not is_main_process():
        return
    display = Display(quiet=quiet)
    _draw_curves(run, display)
    if export:
        _export(run, display)
    images = [name for name in (CURVES, SAMPLE_GRID, RECONSTRUCTIONS) if (run / name).is_file()]
    display.fields({"images": ", ".join(images), "run": one_line(run)})
    display.line("\nnext")
    for command in _next_commands(run, read_config(run).model.classes, exported=export):
        display.line(f"  {command}")


def _draw_curves(run: Path, display: "Display") -> None:
    """Draw the bound and its terms over the epochs into a run folder, with a warning if that fails."""
    try:
        from cvae.plots import losses, style

        style.save(losses.draw({run.resolve().name: losses.read_history(run)}), run / CURVES)
    except (CvaeError, ImportError, OSError) as error:
        display.warning(f"{CURVES} is not drawn: {error}")


def _export(run: Path, display: "Display") -> None:
    """Export a run to ONNX, unless its exported files belong to its weights, with the options of an earlier export.

    Raises:
        CvaeError: If that fails, for whatever reason, with the command that exports it later.
        Interrupted: After Ctrl-C.
    """
    from cvae.exporters.base import read_options
    from cvae.registry import EXPORTERS
    from cvae.runtime.session import read_spec
    from cvae.runtime.weights import is_outdated

    command, started = f"cvae export onnx {shlex.quote(str(run))}", time.monotonic()
    earlier, encoder = _try_read_spec(run / DECODER), _try_read_spec(run / ENCODER)
    if earlier is not None and encoder is not None and not (is_outdated(run, earlier) or is_outdated(run, encoder)):
        display.fields({"export": f"the files belong to these weights already; to export again: {command}"})
        return
    options = {} if earlier is None else read_options(earlier)
    try:
        with display.status("exporting the model to ONNX"):
            paths = EXPORTERS.get("onnx")(run, **options)
    except KeyboardInterrupt:
        raise Interrupted(f"{str(run)!r} is trained, but not exported; export it with: {command}") from None
    except Exception as error:  # torch and the parts of a plug-in may raise anything; the training must not be lost
        raise CvaeError(
            f"{str(run)!r} is trained, but its export failed: {one_line(error, 300)}; once that is fixed, export it "
            f"with: {command}"
        ) from error
    models = [path for path in paths if path.suffix == ".onnx"]
    difference = max(read_spec(path)[0].agreement["max_abs_difference"] for path in models)
    names = " and ".join(path.name for path in models)
    display.fields({"export": f"{names}, within {difference:.1e} of PyTorch, in {time.monotonic() - started:.1f} s"})


def _try_read_spec(path: Path) -> "Spec | None":
    """Return the spec of an exported file, or None if there is no such file or it can't be read."""
    from cvae.runtime.session import read_spec

    try:
        return read_spec(path)[0]
    except CvaeError:
        return None


def _next_commands(run: Path, classes: tuple[str, ...] | None, *, exported: bool) -> list[str]:
    """Return three commands to go on with.

    Args:
        run: folder of the run.
        classes: names of the classes of a conditional model, which may be those of folders.
        exported: whether the model is exported.
    """
    folder, options = shlex.quote(str(run)), "-n 16"
    if classes is not None and "7" in classes:
        options = "--digit 7"
    elif classes is not None:
        is_printable = one_line(classes[0], 40) == classes[0]
        options = f"--label {shlex.quote(classes[0])}" if is_printable else "--label-index 0"
    commands = [f"cvae generate {folder} {options}", f"cvae evaluate {folder}", f"cvae export web {folder}"]
    return commands if exported else [f"cvae export onnx {folder}", *commands[:2]]
