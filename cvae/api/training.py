"""Functions that train a model and finish its run: export, curves and images.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api.arguments import require_torch
from cvae.api.flags import add_flags, check_flags
from cvae.api.run import Run
from cvae.api.train_config import combine_flags, complete, make_run_name
from cvae.atomic import expand_user
from cvae.config import TrainConfig
from cvae.errors import CvaeError, Interrupted, MissingExtraError, UsageError, one_line
from cvae.messages import one_line_warnings
from cvae.run import (
    CURVES,
    DECODER,
    ENCODER,
    RECONSTRUCTIONS,
    SAMPLE_GRID,
    create_run_folder,
    read_config,
    read_metrics,
)
from cvae.serialization import quote

if TYPE_CHECKING:
    from types import ModuleType

    from cvae.config import Config
    from cvae.data import Dataset
    from cvae.engine.display import Display
    from cvae.engine.trainer import OnEpoch
    from cvae.models import VAE
    from cvae.spec import Spec


@add_flags(TrainConfig)
def train(
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    images: Any = None,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    conditions: Mapping[str, Any] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    export: bool = True,
    quiet: bool = False,
    on_epoch: "OnEpoch | None" = None,
    **flags: Any,
) -> Run:
    """Train a new run, export its model to ONNX, and return the run.

    Example:
        `run = cvae.train(images=X, labels=y, arch="conv", epochs=5)` trains on arrays, and
        `run.load().generate(16, label=3)` generates images.

    Args:
        config: A complete configuration. It is used as it is, so it can't be combined with a recipe or flags.
        out: Folder of the run; by default, a new folder under `runs/`. It must not contain a run yet, unless torchrun
            has restarted the process: then the run is resumed.
        images: Images to train on instead of a data set: an array from numpy, torch or another package; a list of PIL
            images or of paths; or a torch `Dataset` of images, (image, label) or (image, dict) tuples, or dicts. An
            array is uint8, bool, or float in 0..1. Its shape is (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3
            channels, or (N, H*H) for flat images. PIL images and files are scaled and cropped to `size` (64x64 by
            default); those that can't be read are skipped with a warning. All images are copied into the folder
            `arrays` of the data cache, so that the run can be resumed and evaluated.
        labels: Class of each image: integers from 0 or strings of shape (N,) or (N, 1), or one-hot vectors (N, K).
            None and NaN are unknown. With labels, the model is conditional unless `conditional=False`.
        classes: Names of the classes in the order of the labels. By default, the attribute `classes` of a `Dataset`,
            or else the sorted labels.
        conditions: Values of further conditions by name: numbers, strings or bools of shape (N,), or bools (N, K) for
            attributes. None and NaN are unknown values. `condition` overrides the kinds, which are inferred. With
            conditions, the model is conditional unless `conditional=False`.
        recipe: Recipe to take flags from: a name, a .toml file or a config.json.
        export: Whether to export the model at the end, as `cvae export onnx` does.
        quiet: Print nothing but warnings.
        on_epoch: Called with the record of each epoch once it is saved. An exception that it raises ends the run.
        **flags: Flags of the command `cvae train` by name, and `options` of parts. They override the recipe.

    Raises:
        TypeError: If an argument is not a flag.
        UsageError: If an argument has the wrong type, or parts of the config do not fit together.
        CvaeError: If the data can't be read, the disk can't be written to, a process was lost, or the export fails. If
            only the export fails, the run itself is complete.
        Diverged: If the loss or a gradient is not finite. The model is not exported.
        Interrupted: After the first Ctrl-C or SIGTERM. The run can be resumed.
    """
    require_torch("cvae.train")
    _check_images(images, labels, classes, conditions)
    if not isinstance(flags.get("data", ""), str | os.PathLike):
        raise UsageError(
            f"data is of type {type(flags['data']).__name__}: it must be the name of a data set, such as "
            "'digits' or 'folder:PATH'; pass arrays and other images as images=..."
        )
    with one_line_warnings():
        if config is None:
            overrides = combine_flags(recipe, check_flags(TrainConfig, flags, train))
            config = complete(overrides)
        else:
            _check_config(config, recipe, flags)
            overrides = vars(config)
        engine = _import_engine("cvae.train")
        engine.check_environment()
        if images is not None:
            if "data" in flags:
                raise UsageError(f"data={flags['data']!r} and images can't be combined; remove one of them")
            data, has_conditions = _store_images(config, _collect(config, images, labels, classes, conditions))
            config = replace(config, data=data, conditional=overrides.get("conditional", has_conditions))
            if config.conditional and not has_conditions:
                raise UsageError(
                    "a conditional model needs labels or conditions; pass labels=..., conditions=..., or "
                    "conditional=False"
                )
        with _run_folder(out, make_run_name(recipe, config)) as folder:
            path: Path = engine.train(config, folder, quiet=quiet, on_epoch=on_epoch)
            _finish(path, export=export, quiet=quiet)
    return Run(path)


def resume(
    out: str | os.PathLike[str],
    *,
    images: Any = None,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    conditions: Mapping[str, Any] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    device: str | None = None,
    on_nan: str | None = None,
    compile: bool | None = None,
    trackers: Sequence[str] | None = None,
    export: bool = True,
    quiet: bool = False,
    on_epoch: "OnEpoch | None" = None,
) -> Run:
    """Resume a run from its newest intact checkpoint, export its model to ONNX, and return the run.

    Arguments that are not None replace the values that the run was started with.

    Args:
        out: Folder of the run, or its name under `runs/`.
        images: The images that the run was started with, if the data cache no longer contains them.
        labels: The labels of the images.
        classes: The names of the classes, if the run was started with any.
        conditions: The conditions of the images, if the run was started with any.
        data: The data set that the run was started with, if it was moved. Its content must be the same.
        data_dir: Folder for downloaded data sets and decoded images.
        epochs: Total number of epochs.
        minutes: Total time budget in minutes, in place of the number of epochs.
        patience: Number of epochs to wait for a better validation bound before stopping early; 0 never stops early.
        device: Device to train on.
        on_nan: What to do if the loss is not finite: "stop" training, or "skip" the batch.
        compile: Whether to compile the networks.
        trackers: Trackers to log to.
        export: Whether to export the model at the end, as `cvae export onnx` does.
        quiet: Print nothing but warnings.
        on_epoch: Called with the record of each epoch once it is saved. An exception that it raises ends the run.

    Raises:
        UsageError: If there is no such run, an argument is not valid, the run is already longer, or the images differ.
        CvaeError: If none of the checkpoints is intact, the data have changed, or the export fails. If only the export
            fails, the run itself is complete.
    """
    values = {
        "data": data,
        "data_dir": data_dir,
        "epochs": epochs,
        "minutes": minutes,
        "patience": patience,
        "device": device,
        "on_nan": on_nan,
        "compile": compile,
        "trackers": trackers,
    }
    require_torch("cvae.resume")
    _check_images(images, labels, classes, conditions)
    changes = check_flags(TrainConfig, {name: value for name, value in values.items() if value is not None}, resume)
    del changes["options"]
    folder = Run(out).path
    with one_line_warnings():
        engine = _import_engine("cvae.resume")
        engine.check_environment()
        if images is not None:
            config = read_config(folder).training
            _restore_images(folder, config, partial(_collect, config, images, labels, classes, conditions), changes)
        path: Path = engine.resume(folder, quiet=quiet, on_epoch=on_epoch, **changes)
        _finish(path, export=export, quiet=quiet)
    return Run(path)


def load_model(run: str | os.PathLike[str]) -> "tuple[VAE, Config]":
    """Load the network of a run with its weights, for programs that use torch.

    Args:
        run: Folder of the run.

    Returns:
        The network in evaluation mode on the CPU, and the config of the run.

    Raises:
        CvaeError: If the folder is not a run, or a file in the folder is damaged.
    """
    model: tuple[VAE, Config] = _import_engine("cvae.load_model").load_model(Path(run))
    return model


def _check_config(config: Any, recipe: Any, flags: dict[str, Any]) -> None:
    if not isinstance(config, TrainConfig):
        raise UsageError(
            f"config is {quote(config)}: it must be a TrainConfig; pass images as images=... and a recipe as recipe=..."
        )
    if recipe is not None or flags:
        name = "recipe" if recipe is not None else next(iter(flags))
        raise UsageError(
            f"{name} and a complete config can't be combined; use dataclasses.replace(config, ...), or flags alone"
        )


def _check_images(images: Any, labels: Any, classes: Any, conditions: Any) -> None:
    if images is None and not (labels is None and classes is None and conditions is None):
        raise UsageError("labels, classes and conditions describe images; pass images too")


def _store_images(config: TrainConfig, dataset: "Dataset") -> tuple[str, bool]:
    """Store images in the data cache. Return their value of `--data`, and whether they have labels or conditions."""
    from cvae.data.array_store import store

    for note in dataset.notes:
        warnings.warn(note, stacklevel=3)
    has_conditions = dataset.classes is not None or bool(dataset.train.columns)
    return store(dataset, _data_dir(config.data_dir)), has_conditions


def _restore_images(run: Path, config: TrainConfig, collect: Callable[[], "Dataset"], changes: dict[str, Any]) -> None:
    """Store the images of a run again.

    Raises:
        UsageError: If these are not the images that the run was started with.
    """
    from cvae.data import array_store

    if config.data.partition(":")[0] != array_store.NAME:
        raise UsageError(f"{str(run)!r} was trained on {config.data!r}, not on images in memory; remove images=...")
    dataset = collect()
    if array_store.identify(dataset) != config.data:
        raise UsageError(
            f"these are not the images, labels, classes and conditions that {str(run)!r} was started with; pass the "
            "same ones, or start a new run"
        )
    array_store.store(dataset, _data_dir(changes.get("data_dir", config.data_dir)))


def _collect(config: TrainConfig, images: Any, labels: Any, classes: Any, conditions: Any) -> "Dataset":
    from cvae.data.collect import collect

    return collect(images, labels, classes, config.sides, conditions)


def _data_dir(path: str | None) -> Path | None:
    return None if path is None else expand_user(path)


@contextmanager
def _run_folder(out: str | os.PathLike[str] | None, name: str) -> Iterator[Path]:
    """Yield the folder of a new run. A folder that is created here and remains empty is removed again."""
    if out is not None:
        yield Path(out)
        return
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("several processes need a common folder to train into; pass it as out (--out)")
    folder = create_run_folder(name)
    try:
        yield folder
    finally:
        with suppress(OSError):  # the folders are not empty if training has started
            folder.rmdir()
            folder.parent.rmdir()


def _import_engine(feature: str) -> "ModuleType":
    require_torch(feature)
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
        CvaeError: If the export fails. Everything else is done by then.
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
    """Plot the bound and its terms over the epochs into a run folder, or print a warning if that fails."""
    if sum("epoch" in record for record in read_metrics(run)) < 2:
        return  # there is nothing to see, and importing matplotlib takes longer than an epoch
    try:
        from cvae.plots import losses, style

        style.save(losses.draw({run.resolve().name: losses.read_history(run)}), run / CURVES)
    except (CvaeError, ImportError, OSError) as error:
        display.warning(f"{CURVES} is not drawn: {error}")


def _export(run: Path, display: "Display") -> None:
    """Export a run to ONNX with the options of its last export, unless its exported files match its weights.

    Raises:
        CvaeError: If the export fails for any reason. The message contains the command that repeats the export.
        Interrupted: After Ctrl-C.
    """
    from cvae.exporters.base import read_options
    from cvae.registry import EXPORTERS
    from cvae.runtime.session import read_spec
    from cvae.runtime.weights import is_outdated

    command, started = f"cvae export onnx {shlex.quote(str(run))}", time.monotonic()
    earlier, encoder = _try_read_spec(run / DECODER), _try_read_spec(run / ENCODER)
    if earlier is not None and encoder is not None and not (is_outdated(run, earlier) or is_outdated(run, encoder)):
        display.fields({"export": f"the files already match these weights; to export again: {command}"})
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
    """Return three commands to continue with.

    Args:
        run: folder of the run.
        classes: names of the classes of a conditional model, which may be folder names.
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
