"""Publish a trained run in model_zoo/: its files, its evaluation, a grid of samples, and its model card.

    cvae train --recipe NAME
    cvae export onnx runs/NAME --license Apache-2.0
    cvae evaluate runs/NAME --samples 1000 --cas --json > runs/NAME/evaluation.json  # --cas for a conditional model
    python model_zoo/scripts/publish_model.py runs/NAME "2 CPU cores"

To publish only the exported files of a large model, remove `model.safetensors` from the run first. The model takes the
name of the run, which should be the name of the recipe. All metrics in the card are read from the files of the run.
"""

import argparse
import json
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import cvae
from cvae import imaging, model_zoo
from cvae.atomic import copy_folder
from cvae.cli.evaluate import flatten_metrics
from cvae.errors import UsageError
from cvae.exporters.base import read_options
from cvae.recipes import read_recipe
from cvae.run import CARD, CONFIG, DECODER, ENCODER, METRICS, WEIGHTS, read_config, read_metrics

ZOO = Path(__file__).resolve().parents[1]
FILES = (CONFIG, METRICS, DECODER, ENCODER, "evaluation.json")


class Subject(NamedTuple):
    """Text of a card about the images of a data set."""

    dataset: str | None
    """Name of the data set on the Hugging Face Hub."""

    source: str
    """Training images."""

    images: str
    """What the images show, in the plural."""

    limitations: str
    """Sentences about the limitations of the model."""


SUBJECTS = {
    "mnist": Subject(
        "ylecun/mnist",
        "the 60,000 training images of MNIST",
        "digits",
        "the model generates single, centred digits in the style of MNIST and nothing else. Some images are not\n"
        "legible digits or, in a model with labels, show a digit other than their label.",
    ),
    "folder:cars": Subject(
        None,
        "3,233 photographs of Stanford Cars (Krause et al. 2013, https://doi.org/10.1109/ICCVW.2013.77), by body type, "
        "squashed to 64x96",
        "cars",
        "the model generates small images of single cars. Many are distorted, or of another body type than their\n"
        "label. Stanford Cars may be used for research only, so the same holds for this model.",
    ),
}
"""Subjects by name of the data set."""


def make_sample_grid(model: cvae.Model) -> Image.Image:
    """Return a grid of samples: a row of eight images per class, or 80 images from an unconditional model."""
    classes = model.spec.classes
    labels = None if classes is None else np.repeat(np.arange(len(classes)), 8)
    images = model.generate(80 if labels is None else len(labels), label_index=labels, seed=0)
    return imaging.enlarge(imaging.grid(images, 8))


def format_metrics(report: dict[str, Any]) -> list[str]:
    """Return a table row for each metric in the output of `cvae evaluate --json`."""
    rows = []
    for part, values in report.items():
        if isinstance(values, dict) and part != "protocol":
            for name, value in flatten_metrics(values):
                value = [round(number, 2) for number in value] if isinstance(value, list) else value
                text = f"{value:.4g}" if isinstance(value, float) and abs(value) < 10 else value
                text = f"{text:.2f}" if isinstance(text, float) else text
                rows.append(f"| {part.replace('_', ' ')}: {name} | {text} |")
    return rows


def list_commands(name: str) -> list[str]:
    """Return the commands that train a recipe, after those that make the model which it starts from.

    If another recipe does not make that model, a script does: its command is a comment at the start of the recipe.
    """
    path = model_zoo.recipe(name)
    init = read_recipe(path).get("init")
    if init in model_zoo.recipes():
        before = list_commands(init)
    else:
        before = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# python ")]
        if init and not before:
            raise UsageError(
                f"{path} starts from {init!r}; say in a comment with which command to make it: # python ..."
            )
    return [*before, f"cvae train --recipe {name}"]


def make_card(run: Path, machine: str, evaluate_flags: str = "") -> str:
    """Return the model card in Markdown.

    Args:
        run: run folder.
        machine: description of the training hardware.
        evaluate_flags: flags of `cvae evaluate` that can't be read from the files of the run.
    """
    config = read_config(run)
    training, name = config.training, run.name
    report = json.loads((run / "evaluation.json").read_text())
    records = read_metrics(run)
    epochs = [record for record in records if "epoch" in record]
    minutes = sum(record["seconds"] for record in epochs) / 60
    model = cvae.load(run)
    spec = model.spec
    summary = model_zoo.summary(name)
    agreement = spec.agreement["max_abs_difference"]
    flags = [f"--samples {report['importance_weighted']['samples']}" if "importance_weighted" in report else ""]
    flags += ["--precision bf16" * ("bounds in bf16" in report["backend"])]
    flags += ["--features trained" * (training.data != "mnist")]
    flags += ["--cas" * ("classification_accuracy_score" in report.get("labels", {}))]
    command = " ".join(["cvae evaluate", name, *filter(None, [*flags, evaluate_flags]), "--json"])
    optimizer = {"adam": "Adam", "adamw": "AdamW", "muon": "Muon"}[training.optimizer]
    subject = SUBJECTS[training.data]
    decay = f", weight decay {training.weight_decay:g}" if training.weight_decay else ""
    tags = "\n".join(f"  - {tag}" for tag in ["vae", *["conditional"] * bool(spec.conditions), "onnx"])
    rows = format_metrics(report)
    options = read_options(spec)
    export = f"cvae export onnx runs/{name}{' --half' * options.get('half', False)}"
    export += f" --license {shlex.quote(options['license'])}" if "license" in options else ""
    retrain = "\n".join(list_commands(name))
    objective = f"objective {' and loss '.join([training.objective, *training.losses])}, "
    saved_epoch = (
        "the last epoch" if training.losses or not training.validation else "the epoch with the best validation bound"
    )
    if training.init is not None:
        objective = f"initialized from {training.init}, {objective}"
    shown = f"Eight {subject.images} of each class," if spec.classes else subject.images.capitalize()
    datasets = f"datasets:\n  - {subject.dataset}\n" if subject.dataset else ""
    colours = "colour" if spec.image_shape[0] == 3 else "grey"
    return f"""---
license: {"apache-2.0" if spec.license == "Apache-2.0" else "other"}
library_name: cvae
pipeline_tag: image-to-image
{datasets}tags:
{tags}
---

# {name}

![{shown} generated by this model](samples.png)

{summary}

Architecture `{spec.architecture}`, {spec.latent_dim} latent dimensions, prior `{spec.prior}`,
{spec.image_shape[1]}x{spec.image_shape[2]} {colours} images.
`decoder.onnx` contains the prior and the decoder in one graph.

| | |
|---|---|
| training data | {subject.source}, {training.validation:.0%} of them held out for validation; {config.data_license} |
| pixels in training | binarization: {training.binarize} |
| training | {objective}{len(epochs)} epochs, batch {training.batch_size}, {optimizer} {training.lr:g}{decay}, {
        training.schedule
    } schedule, \
{training.precision}; {minutes:.0f} minutes on {machine} |
| weights | from {saved_epoch}{", averaged over steps" if training.ema else ""} |
| agreement of onnxruntime with torch | within {agreement:.1e} (decoder) |

Evaluation on {report["protocol"]["images"]:,} {report["protocol"]["split"]} images ({report["backend"]}). \
Pixels are {report["protocol"]["pixels"]}.
Bounds are in nats per image; lower is better.

| metric | value |
|---|---|
{chr(10).join(rows)}

To train it again and reproduce the metrics:

```bash
{retrain}
{export}
{command}
```

**Intended use**: demonstrations, teaching, and tests of apps that embed a generative model.

**Limitations**: {subject.limitations} It is not a classifier, and its images are not meant as training data.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Run folder.")
    parser.add_argument("machine", help="Description of the training hardware, for the card.")
    parser.add_argument(
        "--evaluate", default="", metavar="FLAGS", help="Further flags of `cvae evaluate`, such as '--limit 40'."
    )
    args = parser.parse_args()

    target = ZOO / args.run.name
    if missing := [name for name in FILES if not (args.run / name).is_file()]:
        parser.error(f"{args.run} has no {', '.join(missing)}; see --help for the commands that make them")
    if (data := read_config(args.run).training.data) not in SUBJECTS:
        parser.error(f"no text about the data {data!r} for the card; add it to SUBJECTS")
    with tempfile.TemporaryDirectory() as folder:
        staging = Path(folder) / args.run.name
        staging.mkdir()
        for name in (*FILES, *[WEIGHTS] * (args.run / WEIGHTS).is_file()):
            shutil.copy(args.run / name, staging)
        imaging.save(make_sample_grid(cvae.load(args.run)), staging / "samples.png")
        try:
            (staging / CARD).write_text(make_card(args.run, args.machine, args.evaluate))
        except UsageError as error:
            parser.error(str(error))
        shutil.rmtree(target, ignore_errors=True)
        copy_folder(staging, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB; check its samples.png")


if __name__ == "__main__":
    main()
