"""README.md of a run: the card with which its folder opens as a model repository on a hub.

Front matter: https://huggingface.co/docs/hub/model-cards
"""

import json
from pathlib import Path

from cvae.errors import CvaeError
from cvae.run import read_metrics, sample_images, sample_path
from cvae.spec import Spec

OURS = "<!-- Written by cvae export, again each time; without this line it is yours and stays as it is. -->"


def card(run: Path, spec: Spec) -> str:
    """The card of an exported run: what it is, how it is used, what it was trained on."""
    kind = f"`{spec.architecture}`, {spec.latent_dim} latent dimensions, prior `{spec.prior}`"
    classes = spec.classes or ()
    names = ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)
    channels, height, width = spec.image_shape
    rows = {
        "model": kind,
        "images": f"{width}x{height} {'grey' if channels == 1 else f'in {channels} channels'}",
        "classes": names,
        "training data": f"{spec.data}; {spec.data_terms}",
        "bound on test images": _bound(run),
        "agreement of onnxruntime with torch": f"within {spec.agreement['max_abs_difference']:.1e}",
        "licence of the weights": spec.license or "not said",
    }
    tags = ["vae", *["conditional"] * bool(classes), "onnx"]
    front = [f"license: {json.dumps(spec.license.lower())}"] if spec.license else []
    front += [
        "library_name: cvae",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        *(f"  - {t}" for t in tags),
    ]
    label = f", label={classes[0]!r}" if classes else ""
    return f"""---
{chr(10).join(front)}
---
{OURS}

# {_plain(spec.name)}

A variational autoencoder{" by label" if classes else ""}. `decoder.onnx` draws images from noise, `encoder.onnx` finds
the noise of an image; each is one file that describes itself, and runs on onnxruntime without torch.

```python
import cvae  # pip install 'cvae-onnx[hub]'

model = cvae.load("hf://OWNER/NAME")
images = model.generate(16{label})
```

{_pictures(run)}| | |
|---|---|
{chr(10).join(f"| {name} | {_plain(value)} |" for name, value in rows.items() if value)}
"""


def belongs_to_us(path: Path) -> bool:
    """Whether a card may be written there: there is none, or one that nobody has made their own."""
    return not path.exists() or OURS in path.read_text("utf-8", errors="replace")


def _pictures(run: Path) -> str:
    """Those that the training drew last."""
    epoch = max(sample_images(run, "samples"), default=0)
    says = {
        "samples": "Random images",
        "interpolations": "From one image to another",
        "reconstructions": "Images, and their reconstructions below",
    }
    paths = {text: sample_path(run, epoch, name) for name, text in says.items()}
    return "".join(
        f"![{text}]({path.relative_to(run).as_posix()})\n\n" for text, path in paths.items() if path.is_file()
    )


def _bound(run: Path) -> str:
    """The figure of the test images, if the training has got so far."""
    try:
        records = read_metrics(run)
        return next((f"{each['test']['bound']:.2f} nats per image" for each in records if "test" in each), "")
    except (CvaeError, ValueError, KeyError, TypeError):
        return ""  # a run that is whole but for its metrics is exported too


def _plain(text: str) -> str:
    """Text that stays in its cell of a table, on its line."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
