"""Pictures over HTTP: FastAPI around one exported model.

    uvicorn app:app
    curl -o seven.png 'http://127.0.0.1:8000/images.png?label=7'

CVAE_MODEL names the model: a run, a file, a zoo model, or hf://owner/name. [the default of cvae.load()]
"""

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
from cvae.runtime.model import label_indices

MAX_IMAGES = 256
"""Of one request: what a server decodes for one caller is to stay a matter of milliseconds."""

# One model for all threads: it is safe to share. A request's images are one batch, on one core, so that requests of
# several callers run side by side.
model = cvae.load(os.environ.get("CVAE_MODEL"), threads=1)
app = FastAPI(title=f"cvae: {model.spec.name}")

Label = Annotated[list[str] | None, Query(description="By name; several for several classes.")]
LabelIndex = Annotated[list[int] | None, Query(description="Classes by their place in the list of /health, from 0.")]
Count = Annotated[int, Query(ge=1, le=MAX_IMAGES, description="How many; the labels are drawn in turn.")]
Seed = Annotated[int | None, Query(ge=0, lt=2**53, description="Repeats the same images. [drawn, and told]")]
Temperature = Annotated[float, Query(ge=0, le=4, description="Below 1: more typical. Above: more varied.")]


class Health(BaseModel):
    status: str = "ok"
    model: str
    image_shape: tuple[int, int, int] = Field(description="Channels, height, width.")
    classes: list[str] | None


class Drawn(BaseModel):
    model: str
    seed: int
    labels: list[str] | None
    images: list[list[list[list[float]]]] = Field(description="(N, C, H, W), each value in 0..1.")


@app.exception_handler(cvae.UsageError)
def wrong_use(request: Request, error: cvae.UsageError) -> JSONResponse:
    """A label that the model has not, in one line."""
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
) -> Drawn:
    """New images, as numbers."""
    drawn, labels, seed = draw(label, label_index, n, seed, temperature)
    names = None if labels is None else [model.spec.classes[index] for index in labels]
    return Drawn(model=model.spec.name, seed=seed, labels=names, images=drawn.tolist())


@app.get("/images.png", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def png(
    label: Label = None,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
) -> Response:
    """New images on one picture; X-Seed tells the seed."""
    drawn, _, seed = draw(label, label_index, n, seed, temperature)
    data = io.BytesIO()
    imaging.grid(drawn).save(data, "PNG")
    return Response(data.getvalue(), media_type="image/png", headers={"X-Seed": str(seed)})


def draw(
    label: list[str] | None, label_index: list[int] | None, n: int, seed: int | None, temperature: float
) -> tuple[np.ndarray, list[int] | None, int]:
    """Images (n, C, H, W), the index of each one's class, and the seed."""
    classes, chosen = model.spec.classes or (), label or label_index
    every = np.arange(len(classes))
    indices = every if chosen is None else label_indices(model.spec, label, label_index, len(chosen))
    labels = [int(indices[i % len(indices)]) for i in range(n)] if classes else None
    seed = secrets.randbelow(2**31) if seed is None else seed
    return model.generate(n, seed=seed, temperature=temperature, label_index=labels), labels, seed
