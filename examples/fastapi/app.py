"""Image generation over HTTP: a FastAPI service for one exported model.

    uvicorn app:app
    curl -o seven.png 'http://127.0.0.1:8000/images.png?label=7'

CVAE_MODEL is a run folder, an exported file, a zoo model or hf://owner/name. By default, it is the zoo's default model.
"""

import html
import io
import os
import secrets
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

import cvae
from cvae import imaging
from cvae.runtime.arguments import label_indices

MAX_IMAGES = 256
"""Maximum number of images per request, so that a request takes only milliseconds."""

# The model is thread-safe, so all requests share it. Each request decodes its images as one batch on one core, which
# lets several requests run in parallel.
model = cvae.load(os.environ.get("CVAE_MODEL"), threads=1)
# The name may come from an untrusted file, and FastAPI writes the title into the HTML of /docs as it is.
app = FastAPI(title=f"cvae: {html.escape(model.spec.name)}")

Label = Annotated[list[str] | None, Query(description="Class name; may be repeated.")]
LabelIndex = Annotated[list[int] | None, Query(description="Class index in the `classes` of /health; may be repeated.")]
Count = Annotated[int, Query(ge=1, le=MAX_IMAGES, description="Number of images. They cycle through the labels.")]
Seed = Annotated[
    int | None,
    Query(ge=0, lt=2**53, description="Seed of the noise; random by default."),
]
Temperature = Annotated[
    float,
    Query(ge=0, le=4, description="Scale of the noise; below 1 for more typical images."),
]


class Health(BaseModel):
    status: str = "ok"
    model: str
    image_shape: tuple[int, int, int] = Field(description="Channels, height, width.")
    classes: list[str] | None


class GeneratedImages(BaseModel):
    model: str
    seed: int
    labels: list[str] | None
    images: list[list[list[list[float]]]] = Field(description="(N, C, H, W), values in [0, 1].")


@app.exception_handler(cvae.UsageError)
def handle_usage_error(request: Request, error: cvae.UsageError) -> JSONResponse:
    """Respond with a one-line error, for example for an unknown label."""
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.get("/health")
def health() -> Health:
    spec = model.spec
    return Health(model=spec.name, image_shape=spec.image_shape, classes=spec.classes and list(spec.classes))


@app.get("/images")
def images(
    label: Label = None,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
) -> GeneratedImages:
    """Generate images as JSON numbers."""
    pixels, labels, seed = generate(label, label_index, n, seed, temperature)
    names = None if labels is None else [model.spec.classes[index] for index in labels]
    return GeneratedImages(model=model.spec.name, seed=seed, labels=names, images=pixels.tolist())


@app.get("/images.png", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def png(
    label: Label = None,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    enlarge: Annotated[bool, Query(description="Enlarge small images, so that details are visible.")] = True,
) -> Response:
    """Generate images as one PNG. The header X-Seed contains the seed."""
    pixels, _, seed = generate(label, label_index, n, seed, temperature)
    data = io.BytesIO()
    image = imaging.grid(pixels)
    (imaging.enlarge(image) if enlarge else image).save(data, "PNG")
    return Response(data.getvalue(), media_type="image/png", headers={"X-Seed": str(seed)})


def generate(
    label: list[str] | None, label_index: list[int] | None, n: int, seed: int | None, temperature: float
) -> tuple[np.ndarray, list[int] | None, int]:
    """Return images (n, C, H, W), the class index of each image, and the seed."""
    classes, chosen_labels = model.spec.classes or (), label or label_index
    if chosen_labels is None:
        indices = np.arange(len(classes))
    else:
        indices = label_indices(model.spec, label, label_index, len(chosen_labels))
    labels = [int(indices[i % len(indices)]) for i in range(n)] if classes else None
    seed = secrets.randbelow(2**31) if seed is None else seed
    return model.generate(n, seed=seed, temperature=temperature, label_index=labels), labels, seed
