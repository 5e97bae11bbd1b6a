"""Put a trained run into model_zoo/: its files, its evaluation, a sheet of samples, and its card.

    cvae train --recipe NAME
    cvae export onnx runs/NAME --license Apache-2.0
    cvae evaluate runs/NAME --samples 1000 --cas --json > runs/NAME/evaluation.json  # --cas: if it has labels
    python model_zoo/scripts/publish_model.py runs/NAME "2 CPU cores"

The model gets the name of the run, which should be that of its recipe. Figures in the card come from the files alone.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cvae
from cvae import imaging, model_zoo
from cvae.atomic import copy_folder
from cvae.recipes import read_recipe
from cvae.run import CARD, CONFIG, DECODER, ENCODER, METRICS, WEIGHTS, read_config, read_metrics

ZOO = Path(__file__).resolve().parents[1]
FILES = (CONFIG, WEIGHTS, METRICS, DECODER, ENCODER, "evaluation.json")


def sample_grid(model: cvae.Model) -> Image.Image:
    """Eight images of each class, a row a class; of a model without labels 80."""
    classes = model.spec.classes
    labels = None if classes is None else np.repeat(np.arange(len(classes)), 8)
    images = model.generate(80 if labels is None else len(labels), label_index=labels, seed=0)
    return imaging.enlarge(imaging.grid(images, 8))


def metric_rows(report: dict[str, Any]) -> list[str]:
    """A line of the card's table for each number of `cvae evaluate`, under its name in the JSON."""
    lines = []
    for part, values in report.items():
        if isinstance(values, dict) and part != "protocol":
            for name, value in values.items():
                value = [round(each, 2) for each in value] if isinstance(value, list) else value
                shown = f"{value:.4g}" if isinstance(value, float) and abs(value) < 10 else value
                shown = f"{shown:.2f}" if isinstance(shown, float) else shown
                lines.append(f"| {part.replace('_', ' ')}: {name.replace('_', ' ')} | {shown} |")
    return lines


def stages(name: str) -> list[str]:
    """The recipes to train by, one after the other: each begins with the weights of the one before."""
    init = read_recipe(model_zoo.recipe(name)).get("init")
    return [*(stages(init) if init else []), name]


def card(run: Path, machine: str) -> str:
    config = read_config(run)
    training, name = config.training, run.name
    report = json.loads((run / "evaluation.json").read_text())
    records = read_metrics(run)
    epochs = [record for record in records if "epoch" in record]
    minutes = sum(record["seconds"] for record in epochs) / 60
    model = cvae.load(run)
    spec = model.spec
    summary = (ZOO / "recipes" / f"{name}.toml").read_text().partition("\n")[0].removeprefix("# ")
    labelled = "labels" in report
    agreement = spec.agreement["max_abs_difference"]
    samples = report["importance_weighted"]["samples"]
    flags = [f"--samples {samples}", "--precision bf16" * ("bf16" in report["backend"])]
    flags += ["--cas" * ("classification_accuracy_score" in report.get("labels", {}))]
    command = " ".join(["cvae evaluate", name, *filter(None, flags), "--json"])
    optimizer = {"adam": "Adam", "adamw": "AdamW"}[training.optimizer]
    decay = f", weight decay {training.weight_decay:g}" if training.weight_decay else ""
    tags = "\n".join(f"  - {tag}" for tag in ["vae", *["conditional"] * labelled, "onnx"])
    lines = metric_rows(report)
    retrain = "\n".join(f"cvae train --recipe {stage}" for stage in stages(name))
    objective = f"objective {training.objective}, "
    if training.init is not None:
        objective = f"from the weights of {training.init} on, {objective}"
    picture = "Eight digits of each class, drawn by this model" if labelled else "Digits drawn by this model"
    return f"""---
license: {spec.license.lower() if spec.license else "other"}
library_name: cvae
pipeline_tag: image-to-image
datasets:
  - ylecun/mnist
tags:
{tags}
---

# {name}

![{picture}](samples.png)

{summary} Architecture `{spec.architecture}`, {spec.latent_dim} latent dimensions, prior `{spec.prior}`,
{spec.image_shape[1]}x{spec.image_shape[2]} grey; prior and decoder are one graph in `decoder.onnx`.

| | |
|---|---|
| training data | MNIST's 60,000 training images less {training.validation:.0%} held out for validation; {
        config.data_terms
    } |
| pixels in training | binarization: {training.binarize} |
| training | {objective}{len(epochs)} epochs, batch {training.batch_size}, {optimizer} {training.lr:g}{decay}, {
        training.schedule
    } schedule, \
{training.precision}; {minutes:.0f} minutes on {machine} |
| weights | those of the best validation bound{", averaged over steps" if training.ema else ""} |
| agreement of onnxruntime with torch | within {agreement:.1e} (decoder) |

Scored on {report["protocol"]["images"]:,} {report["protocol"]["split"]} images, pixels \
{report["protocol"]["pixels"]}; {report["backend"]}; nats per image, lower is better:

| measured | |
|---|---|
{chr(10).join(lines)}

Retrain it, and repeat the figures:

```bash
{retrain}
cvae export onnx runs/{name} --license Apache-2.0
{command}
```

**Use**: demonstrations, teaching, tests of apps that embed a generative model. **Limits**: it knows single digits in
MNIST's style, centred in their frame, and nothing else; some pictures are not legible digits{
        ", or not the digit that was asked for" if labelled else ""
    }; it is no classifier and no source of training data of record.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("machine", help="what it was trained on, for the card")
    args = parser.parse_args()

    target = ZOO / args.run.name
    if missing := [name for name in FILES if not (args.run / name).is_file()]:
        parser.error(f"{args.run} has no {', '.join(missing)}: see above how to make them")
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / args.run.name
        ready.mkdir()
        for name in FILES:
            shutil.copy(args.run / name, ready)
        imaging.save(sample_grid(cvae.load(args.run)), ready / "samples.png")
        (ready / CARD).write_text(card(args.run, args.machine))
        shutil.rmtree(target, ignore_errors=True)
        copy_folder(ready, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB; now look at its samples.png")


if __name__ == "__main__":
    main()
