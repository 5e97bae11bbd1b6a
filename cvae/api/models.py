"""Functions that evaluate, export and describe models, and list the parts that models are built from.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.api.image_results import ModelLike
from cvae.errors import CvaeError, UsageError, suggest

if TYPE_CHECKING:
    from cvae.config import DataConfig
    from cvae.evaluation.bounds import Scorer
    from cvae.evaluation.feature_extractor import FeatureExtractor


def evaluate(
    model: ModelLike = None,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    binarize: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    samples: int | None = None,
    generated: int = 10_000,
    features: str | None = None,
    lpips: bool = False,
    cas: bool = False,
    exported: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    note: Note = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model: bounds, reconstructions, how well images obey conditions, and distances from real images.

    Args:
        model: Run folder, exported file, zoo model, hf://owner/name, or an open model, whose files are read again;
            None for the newest run, or else the zoo's default model.
        data: Data set, as in `cvae.train`; None for the one used in training.
        data_dir: Folder of downloaded data and of the cache; None for the one used in training.
        size: Height and width of the images, such as "64" or "64x96"; None for the size in training.
        binarize: Binarization of the pixels, as in `cvae.train`; None for the one used in training.
        split: "test", "validation" or "train"; None for test or, without test images, validation.
        limit: Maximum number of images, evenly spaced in the split. Distances always use all images.
        samples: Number of samples per image for the importance-weighted bound; None omits this bound.
        generated: Number of images to generate for distances and for how well they obey their conditions.
        features: Feature extractor for distances, and predictor of conditions: "mnist", "module:callable", "trained" or
            the path of an ONNX file (see the guide to evaluation); None for the data set's own. "trained" is a
            classifier that learns the labels and other conditions of the training images. It is trained once, which
            takes minutes and requires torch, and cached in `data_dir`.
        lpips: Whether to report LPIPS of the reconstructions. This downloads VGG16 (553 MB) once, and requires torch.
        cas: Whether to train a classifier on generated images and report its accuracy. This takes minutes and requires
            torch.
        exported: Whether to evaluate the exported files, without torch, even if the run has weights.
        seed: Seed of all random numbers.
        device: "auto", "cpu" or "cuda".
        precision: Precision of the computation in torch: "fp32", "bf16", "fp16" or "auto".
        note: Called with each message for the user.
        progress: Called with the name of the stage, the number of finished items, and the total.

    Returns:
        The metrics by group, and the protocol by which they were measured. Bounds are in nats per image. For exported
        files, they include the size of the decoder and the time to decode an image.

    Raises:
        UsageError: If there is no such model or split, or the data do not fit the model.
        MissingExtraError: If a metric needs packages that are not installed.
        CvaeError: If a file is damaged, or the data can't be loaded.
    """
    from cvae.api.classifier import train_extractor
    from cvae.evaluation.evaluate import evaluate as measure
    from cvae.evaluation.exported_scorer import ExportedScorer, measure_runtime
    from cvae.evaluation.feature_extractor import TRAINED
    from cvae.evaluation.splits import load_labelled, load_split

    progress = progress or (lambda stage, done, total: None)
    path = arguments.find_model(model, note)
    scorer, config = _open_scorer(path, exported, device, precision, note)
    if note is not None and (losses := _find_losses(path)):
        note(f"trained with losses that the bound does not contain: {', '.join(losses)}")
    config = arguments.override_data(config, data=data, data_dir=data_dir, size=size, binarize=binarize)
    if cas:
        arguments.require_torch("--cas")
        if scorer.classes is None:
            raise UsageError(
                f"--cas needs a model whose only condition is a label, unlike {scorer.name!r}; remove --cas"
            )
        load_labelled(config, "--cas")  # check the data now, because the evaluation may take hours
    pair_metric = None
    if lpips:
        arguments.require_torch("--lpips")
        from cvae.evaluation.run_scorer.lpips import load_lpips

        pair_metric = load_lpips(scorer.image_shape, device)
    extractor: str | FeatureExtractor | None = features
    if features == TRAINED:
        load_split(config, split, scorer)  # check the data before the training
        extractor = train_extractor(config, device=device, note=note, progress=progress)
    report = measure(
        scorer,
        config,
        split=split,
        limit=limit,
        samples=samples,
        generated=generated,
        features=extractor,
        lpips=pair_metric,
        seed=seed,
        progress=progress,
        note=note,
    )
    if isinstance(scorer, ExportedScorer):
        report["runtime"] = measure_runtime(scorer.model)
    if cas:
        from cvae.evaluation.run_scorer.accuracy_score import accuracy_score

        report["labels"] = report.get("labels", {}) | accuracy_score(
            scorer, config, seed=seed, device=device, progress=progress
        )
    if generated and "generated" not in report and note is not None:
        note(
            f"there is no feature extractor for {report['data']!r}, so distances are skipped; "
            "choose one with --features trained, MODULE:CALLABLE or PATH.onnx"
        )
    return report


def _find_losses(path: Path) -> tuple[str, ...]:
    """Return the losses that were added to the objective of the run that a model belongs to."""
    from cvae.run import is_run, read_config

    folder = path if path.is_dir() else path.parent
    return read_config(folder).training.losses if is_run(folder) else ()


def _open_scorer(path: Path, exported: bool, device: str, precision: str, note: Note) -> "tuple[Scorer, DataConfig]":
    """Open the weights of a run, or its exported files, for evaluation. Also return the config of its data."""
    from cvae.evaluation.evaluate import find_data_config
    from cvae.run import has_weights

    if not exported and has_weights(path) and importlib.util.find_spec("torch") is not None:
        from cvae.evaluation.run_scorer import RunScorer

        return RunScorer(path, device, precision), find_data_config(path, "")
    from cvae.config import TrainConfig
    from cvae.evaluation.exported_scorer import ExportedScorer
    from cvae.flags import check_values
    from cvae.runtime import load

    check_values(TrainConfig, {"precision": precision})
    if precision in ("bf16", "fp16"):
        if exported:
            raise UsageError(
                f"--precision {precision} is a setting of torch, but exported files run in fp32; remove it"
            )
        arguments.send(note, f"exported files run in fp32, so --precision {precision} has no effect")
    model = load(path, device=device)
    if note is not None and (model.spec.prior != "normal" or model.spec.architecture == "ladder"):
        note("exported files only approximate the posterior, so these bounds are far looser than those of the run")
    return ExportedScorer(model), find_data_config(path, model.spec.data)


def export(format: str, run: str | Path | None = None, *, note: Note = None, **options: Any) -> list[Path]:
    """Export a model to files for other programs.

    Start with "onnx": it writes decoder.onnx and encoder.onnx to the run folder, after comparing them with torch. The
    other formats use these files.

    Args:
        format: "onnx", "web", "triton", or a format from a plug-in.
        run: Run to export. All formats but "onnx" also accept other exported models. None for the newest run.
        note: Called with each message for the user.
        options: Options of the format. "onnx" has `license` (a name such as "Apache-2.0") and `half` (store the weights
            in 16 bits). "web" and "triton" have `out` (the folder to write). "triton" also has `encoder` (also export
            the encoder).

    Returns:
        The paths of the files.

    Raises:
        UsageError: If there is no such format, option or model.
        MissingExtraError: If the format needs packages that are not installed.
        CvaeError: If the export fails. Nothing is written.
    """
    return run_exporter(format, run, options, note)


def run_exporter(format: str, run: str | Path | None, options: Mapping[str, Any], note: Note = None) -> list[Path]:
    """Export a model like `export`. The options are a mapping, so they may have any names, even `note`."""
    from cvae.exporters.base import reads_weights, reports_progress
    from cvae.registry import EXPORTERS

    exporter, resolved = EXPORTERS.get(format), EXPORTERS.resolve(format, options)
    model = _find_run(run, note) if reads_weights(exporter) else arguments.find_model(run, note)
    paths: list[Path] = exporter(model, note, **resolved) if reports_progress(exporter) else exporter(model, **resolved)
    return paths


def _find_run(name: str | Path | None, note: Note) -> Path:
    """Return the folder of the named run, or of the newest run. Reject zoo models, whose files must not change."""
    from cvae.model_zoo import models
    from cvae.run import newest_run
    from cvae.runtime.find import find
    from cvae.runtime.hub import SCHEME

    if name is None:
        if (newest := newest_run()) is None:
            raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
        if note is not None:
            note(f"newest run: {newest}")
        return newest
    name = str(name)
    if name in models() and not Path(name).exists():
        raise UsageError(f"{name!r} is a zoo model, which is already exported; see: cvae info {name}")
    if name.startswith(SCHEME):
        raise UsageError(f"{name!r} is already exported, but this format needs the weights of a run; name a run folder")
    return find(name)


def info(model: str | Path | None = None, *, note: arguments.Note = None) -> dict[str, Any]:
    """Describe a run, an exported file or a zoo model, without importing torch.

    Args:
        model: Run folder, exported file, zoo model or hf://owner/name; by default the newest run, else the zoo's
            default model.
        note: Function that is called with each message for the user.

    Returns:
        For a run, its network, its conditions, its data, its files, and the bounds of its saved weights in nats. For an
        exported file, its path, its size in bytes, and its spec. `onnxruntime` is its version, with its providers.

    Raises:
        UsageError: If there is no such model.
        CvaeError: If a file is damaged.
    """
    from cvae.run import DECODER, is_run

    path = arguments.find_model(model, note)
    if path.is_dir() and not is_run(path):  # a download contains only exported files
        path /= DECODER
    return (_describe_file(path) if path.is_file() else _describe_run(path)) | {"onnxruntime": _describe_runtime()}


def _describe_runtime() -> dict[str, Any]:
    """Return the version of onnxruntime and its providers, which are the devices of `--device`."""
    import onnxruntime

    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def parts(name: str | None = None) -> dict[str, Any]:
    """List the parts that a model can have, or the options of one part.

    Args:
        name: Part, such as "resnet". If parts of several kinds have the same name, add the kind, as in "prior.flow".

    Returns:
        Without a name: for each flag that selects a part, the names and summaries of the parts. With a name: the
        `name`, `flag` and `summary` of the part, and its `options`, each with `type`, `default`, `range` and `help`.
        `cvae.train` takes options in the form `options={"arch": {"width": 32}}`.

    Raises:
        UsageError: If there is no such part; the message suggests similar names.
        MissingExtraError: If the packages that the part needs are not installed.
    """
    from cvae.registry import REGISTRIES

    if name is None:
        return {_part_flag(kind): {part: names.summary(part) for part in names} for kind, names in REGISTRIES.items()}
    kinds = {f"{kind}.{part}": kind for kind, names in REGISTRIES.items() for part in names}
    matches = [full for full in kinds if name in (full, full.partition(".")[2])]
    if not matches:
        raise UsageError(f"there is no part {name!r}; {suggest(name, (full.partition('.')[2] for full in kinds))}")
    if len(matches) > 1:
        raise UsageError(f"there are several parts named {name!r}; choose one of {', '.join(matches)}")
    kind, part = kinds[matches[0]], matches[0].partition(".")[2]
    names = REGISTRIES[kind]
    options = names.describe_options(part)
    return {"name": part, "flag": _part_flag(kind), "summary": names.summary(part), "options": options}


def _part_flag(kind: str) -> str:
    from cvae.config import flag

    return kind if kind == "export" else flag(kind)


def _describe_file(path: Path) -> dict[str, Any]:
    """Return the spec of an exported file."""
    from cvae.runtime.session import read_spec

    return {"file": str(path), "bytes": path.stat().st_size, **json.loads(read_spec(path)[0].to_json())}


def _describe_run(path: Path) -> dict[str, Any]:
    """Return the config, metrics and files of a run folder."""
    from cvae.run import METRICS, read_config, read_metrics, saved_epoch
    from cvae.serialization import to_dict

    config = read_config(path)
    model, training = to_dict(config.model), to_dict(config.training)
    file = path / METRICS
    try:
        records = read_metrics(path) if file.exists() else []
        metrics = {**saved_epoch(records), **(records[-1] if records and "test" in records[-1] else {})}
        bounds = {
            split: "{bound:.2f} nats ({distortion:.2f} + {rate:.2f})".format(**metrics[split])
            for split in ("train", "validation", "test")
            if split in metrics
        }
    except (CvaeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, CvaeError) else f"{str(file)!r} is damaged"
        raise CvaeError(f"{reason}; remove it to describe the run without metrics") from error
    return {
        "run": str(path),
        **{key: _format_part(value) for key, value in model.items()},
        "conditions": [condition.to_json() for condition in config.model.conditions],
        "data": training["data"],
        "losses": ", ".join(training["losses"]) or None,
        "data_license": config.data_license,
        "epochs": _count_epochs(records, training),
        **{f"{split}_bound": bound for split, bound in bounds.items()},
        "exported": _describe_export(path),
        "files": sorted(entry.name for entry in path.iterdir() if entry.is_file()),
    }


def _count_epochs(records: list[dict[str, Any]], training: dict[str, Any]) -> str | None:
    count = sum("epoch" in record for record in records)
    length = f"of {training['epochs']}" if training.get("minutes") is None else f"in {training['minutes']:g} minutes"
    return f"{count} {length}" if records else None


def _describe_export(run: Path) -> str | None:
    """Describe whether the decoder of a run was exported from its weights. Return None if there is no decoder."""
    from cvae.run import DECODER
    from cvae.runtime.session import read_spec
    from cvae.runtime.weights import is_outdated

    if not (run / DECODER).is_file():
        return None
    try:
        outdated = is_outdated(run, read_spec(run / DECODER)[0])
    except CvaeError as error:
        return str(error)
    return f"from different weights; export again with: cvae export onnx {run}" if outdated else "from these weights"


def _format_part(value: Any) -> Any:
    """Format a part of a model on one line, such as "resnet (width 16, blocks 1)"."""
    if not isinstance(value, dict):
        return value
    options = ", ".join(f"{option} {setting}" for option, setting in value["options"].items())
    return value["name"] + (f" ({options})" if options else "")
