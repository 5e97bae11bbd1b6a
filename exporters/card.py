"""Model card of a run: a README.md that makes the run folder a model repository for a hub. Does not import torch.

Format of the front matter: https://huggingface.co/docs/hub/model-cards
"""

import json
from pathlib import Path

from cvae.atomic import read_at_most
from cvae.conditions import NUMBER, Condition
from cvae.errors import CvaeError
from cvae.run import CONFIG, read_config, read_metrics, sample_images, sample_path
from cvae.spec import Spec
from cvae.text import escape_markdown

MARKER = "<!-- Written by cvae export"
"""Start of the line that allows the next export to overwrite a card."""

MAX_BYTES = 2**20
"""Number of bytes of a card in which the `MARKER` is expected."""

ADDRESS = "hf://OWNER/NAME"
"""Address of the model in a card. `cvae hub push` replaces it with the address of the repository."""

NOTE = f"{MARKER}, which overwrites this file. Delete this line to keep your own changes. -->"


def make_card(run: Path, spec: Spec) -> str:
    """Return the card of a run. It says what the model is, how to use it, and what it was trained on.

    Args:
        run: folder of the run.
        spec: spec of the exported decoder, including its agreement with torch.
    """
    conditions = spec.conditions
    names = ", ".join((spec.classes or ())[:20]) + ", ..." * (len(spec.classes or ()) > 20)
    channels, height, width = spec.image_shape
    rows = {
        "model": f"{spec.architecture}, {spec.latent_dim} latent dimensions, prior {spec.prior}",
        "images": f"{width}x{height} {'grey' if channels == 1 else f'with {channels} channels'}",
        "classes": names,
        **({} if spec.classes else {f"condition `{c.name}`": _describe_condition(c) for c in conditions}),
        "training data": f"{spec.data}; {spec.data_license}",
        "bound on test images": _format_test_bound(run),
        "losses in addition to the bound": _list_losses(run),
        "agreement of onnxruntime with torch": f"within {spec.agreement['max_abs_difference']:.1e}",
        "license of the weights": spec.license or "not stated",
    }
    tags = ["vae", *["conditional"] * bool(conditions), "onnx"]
    front_matter = [f"license: {json.dumps(spec.license.lower())}"] if spec.license else []
    front_matter += [
        "library_name: cvae",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        *(f"  - {tag}" for tag in tags),
    ]
    kind = "conditional " if conditions else ""
    values = "".join(f", {condition.name}={_choose_example(condition)!r}" for condition in conditions)
    return f"""---
{chr(10).join(front_matter)}
---
{NOTE}

# {escape_markdown(spec.name)}

A {kind}variational autoencoder. `decoder.onnx` turns noise into images, and `encoder.onnx`
turns an image into the mean and standard deviation of its noise. Each is one self-describing file, which runs on
onnxruntime without torch. To download it from a hub, install cvae as its own README describes, with the extra `hub`.

```python
import cvae

model = cvae.load("{ADDRESS}")
images = model.generate(16{values})
```

{_embed_sample_images(run)}| | |
|---|---|
{chr(10).join(f"| {name} | {escape_markdown(value)} |" for name, value in rows.items() if value)}
"""


def _describe_condition(condition: Condition) -> str:
    """Return the kind of a condition, its values or its range, and whether it may be unknown."""
    return condition.describe() + (", or unknown" if condition.optional else "")


def _choose_example(condition: Condition) -> float | str | bool:
    """Return a value of a condition: the first of a category, the middle of a range, or an attribute that is yes."""
    if condition.kind == NUMBER:
        low, high = condition.range
        middle = (low + high) / 2
        short = float(f"{middle:.3g}")
        return short if low <= short <= high else middle
    return True if condition.values == (condition.name,) else condition.values[0]


def can_overwrite_card(path: Path) -> bool:
    """Return whether `path` does not exist, or is a card that still contains the line with the `MARKER`.

    Raises:
        CvaeError: If it can't be read.
    """
    return not path.exists() or MARKER.encode() in read_at_most(path, MAX_BYTES, truncate=True)


def _embed_sample_images(run: Path) -> str:
    """Return Markdown that shows the sample images of the last epoch."""
    epoch = max(sample_images(run, "samples"), default=0)
    captions = {
        "samples": "Random images",
        "interpolations": "Interpolations between two images",
        "reconstructions": "Images, and their reconstructions below",
    }
    paths = {caption: sample_path(run, epoch, kind) for kind, caption in captions.items()}
    return "".join(
        f"![{caption}]({path.relative_to(run).as_posix()})\n\n" for caption, path in paths.items() if path.is_file()
    )


def _list_losses(run: Path) -> str:
    """Return the losses that were added to the objective, which worsen the bound, or "" if there are none."""
    losses = read_config(run).training.losses if (run / CONFIG).is_file() else ()
    return f"{', '.join(losses)}; they make the bound worse" if losses else ""


def _format_test_bound(run: Path) -> str:
    """Return the bound on the test images, or "" if training has not finished.

    Raises:
        CvaeError: If the metrics can't be read.
    """
    try:
        tests = [record["test"] for record in read_metrics(run) if "test" in record]
        return f"{tests[0]['bound']:.2f} nats per image" if tests else ""
    except (CvaeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error.__cause__, OSError):
            raise
        return ""  # damaged metrics do not prevent an export
