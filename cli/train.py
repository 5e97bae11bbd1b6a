"""cvae train"""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.cli import _shared
from cvae.config import TrainConfig

_default = TrainConfig()


def _flag(text: str, default: Any = None, *names: str) -> Any:
    """An option that is None unless given, so that a recipe's value stands; its help tells the default."""
    shown = "" if default in (None, False) else f" [{default}]"
    return typer.Option(*names, help=text + shown, show_default=False)


def train(
    recipe: Annotated[
        str | None, typer.Option(help="Flags from a recipe: a name, a .toml, or a run's config.json.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [a new one under runs/]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --out, or the newest run.")] = False,
    arch: Annotated[str | None, _flag("Architecture; `cvae archs` lists them.", _default.arch)] = None,
    conditional: Annotated[bool | None, _flag("Learn to draw by label.")] = None,
    conditioning: Annotated[str | None, _flag("How labels enter: film or concat.", _default.conditioning)] = None,
    likelihood: Annotated[str | None, _flag("p(x|z). [bernoulli for black on white, else gaussian-optimal]")] = None,
    prior: Annotated[str | None, _flag("p(z).", _default.prior)] = None,
    latent_dim: Annotated[int | None, _flag("Numbers in a code.", _default.latent_dim)] = None,
    data: Annotated[str | None, _flag("Data set: a name, folder:PATH or npz:PATH.", _default.data)] = None,
    data_dir: Annotated[str | None, _flag("Where data sets are, or are downloaded to. [~/.cache/cvae]")] = None,
    size: Annotated[int | None, _flag("Side in pixels that images are made. [as they are; folders: 64]")] = None,
    binarize: Annotated[
        str | None, _flag("Draw pixels black or white: none, dynamic, static.", _default.binarize)
    ] = None,
    validation: Annotated[float | None, _flag("Fraction held out to select weights by.", _default.validation)] = None,
    limit: Annotated[int | None, _flag("Train on the first N images only.")] = None,
    objective: Annotated[str | None, _flag("What is minimized.", _default.objective)] = None,
    beta: Annotated[float | None, _flag("Weight of the KL term. [1]")] = None,
    free_bits: Annotated[
        float | None, _flag("Nats that cost nothing: per latent dimension; with a flow, in all. [0]")
    ] = None,
    kl_warmup: Annotated[
        float | None, _flag("Epochs until the KL term has its full weight.", _default.kl_warmup)
    ] = None,
    epochs: Annotated[int | None, _flag("Passes over the data. [10; for small sets, until 1,500 steps]")] = None,
    batch_size: Annotated[int | None, _flag("Images per step.", _default.batch_size)] = None,
    optimizer: Annotated[str | None, _flag("adam or adamw.", _default.optimizer)] = None,
    lr: Annotated[float | None, _flag("Learning rate.", _default.lr)] = None,
    weight_decay: Annotated[float | None, _flag("Of the optimizer.", _default.weight_decay)] = None,
    schedule: Annotated[
        str | None, _flag("Learning rate over time: constant, cosine, step.", _default.schedule)
    ] = None,
    warmup: Annotated[int | None, _flag("Steps until the full learning rate.", _default.warmup)] = None,
    clip: Annotated[float | None, _flag("Largest norm of the gradient; 0: any.", _default.clip)] = None,
    ema: Annotated[float | None, _flag("Decay of the averaged weights, as 0.999; 0: none.", _default.ema)] = None,
    seed: Annotated[int | None, _flag("Of weights, noise and order.", _default.seed)] = None,
    device: Annotated[str | None, _flag("auto, cpu, cuda, mps.", _default.device)] = None,
    precision: Annotated[str | None, _flag("auto, fp32, bf16, fp16.", _default.precision)] = None,
    set_: Annotated[list[str] | None, _flag("An option of a part, as arch.width=32.", None, "--set")] = None,
    json: _shared.Json = False,
) -> None:
    """Train a model into a new folder under runs/.

    Without --data it learns the bundled handwritten digits: no download.

    Example: cvae train --arch resnet --conditional
    """
    import json as encoder
    import os

    _shared.require_torch("cvae train")
    given = {name: value for name, value in locals().items() if value is not None and hasattr(_default, name)}
    if resume:
        run = _continue(out, {**given, **({"recipe": recipe} if recipe else {}), **({"set": set_} if set_ else {})})
    else:
        run = _start(recipe, out, given, set_ or [])
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return
    last = encoder.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    _shared.report(json, {"run": str(run), **last}, f"{run}: trained; next: cvae export onnx {run}")


def _start(recipe: str | None, out: Path | None, given: dict[str, Any], assignments: list[str]) -> Path:
    import cvae
    from cvae import model_zoo
    from cvae.config import from_dict, parse_options, read_recipe
    from cvae.runtime.find import RUNS

    flags = read_recipe(model_zoo.recipe(recipe)) if recipe else {}
    options = {kind: dict(values) for kind, values in flags.get("options", {}).items()}
    for kind, values in parse_options(assignments).items():
        options.setdefault(kind, {}).update(values)
    config = from_dict(TrainConfig, {**flags, **given, "options": options})
    if out is None:
        data = config.data.partition(":")[0]
        source = Path(recipe or "")
        if source.name == "config.json":
            source = source.parent
        name = source.stem if recipe else "-".join([data, config.arch, *["conditional"] * config.conditional])
        tries = [RUNS / name, *(RUNS / f"{name}-{i}" for i in range(2, 10_000))]
        out = next(path for path in tries if not path.exists())
    return cvae.train(config, out)


def _continue(out: Path | None, given: dict[str, Any]) -> Path:
    import cvae
    from cvae.errors import UsageError
    from cvae.runtime.find import RUNS

    if extra := [name for name in given if name not in ("epochs", "device")]:
        raise UsageError(
            "--resume continues a run as it was begun; of its flags only --epochs and --device can change, "
            f"not {extra[0]!r}"
        )
    checkpoints = sorted(RUNS.glob("*/last/*.json"), key=lambda path: path.stat().st_mtime_ns)
    if out is None and not checkpoints:
        raise UsageError("there is no run under 'runs' to resume; name one with --out")
    if out is None:
        out = checkpoints[-1].parent.parent
        _shared.say(f"newest run: {out}")
    return cvae.resume(out, epochs=given.get("epochs"), device=given.get("device"))
