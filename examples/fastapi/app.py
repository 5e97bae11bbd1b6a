"""Image generation over HTTP: a FastAPI service for one exported model.

    uvicorn app:app
    curl -o seven.png 'http://127.0.0.1:8000/images.png?label=7'
    curl -o face.png 'http://127.0.0.1:8000/images.png?age=40&smiling=yes'
    curl --json '{"n": 2, "conditions": {"age": [20, 70], "smiling": null}}' http://127.0.0.1:8000/images

A condition that is left out, or null in JSON, is unknown. CVAE_MODEL is a run folder, an exported file, a zoo model or
hf://owner/name. By default, it is the zoo's default model.
"""

import html
import io
import os
import secrets
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

import cvae
from cvae import imaging
from cvae.runtime.array import Images
from cvae.runtime.conditions import condition_rows, describe_rows, is_per_image

MAX_IMAGES = 256
"""Maximum number of images per request, so that a request takes only milliseconds."""

# The model is thread-safe, so all requests share it. Each request decodes its images as one batch on one core, which
# lets several requests run in parallel.
model = cvae.load(os.environ.get("CVAE_MODEL"), threads=1)
# The name may come from an untrusted file, and FastAPI writes the title into the HTML of /docs as it is.
app = FastAPI(title=f"cvae: {html.escape(model.spec.name)}")

LabelIndex = Annotated[list[int] | None, Query(description="Index of the class, instead of its name; may be repeated.")]
Count = Annotated[int, Query(ge=1, le=MAX_IMAGES, description="Number of images. They cycle through repeated values.")]
Seed = Annotated[int | None, Query(ge=0, lt=2**53, description="Seed of the noise; random by default.")]
Temperature = Annotated[float, Query(ge=0, le=4, description="Scale of the noise; below 1 for more typical images.")]
Extrapolate = Annotated[bool, Query(description="Accept numbers beyond the range of the training data.")]

PARAMETERS = {"label_index", "n", "seed", "temperature", "extrapolate", "enlarge"}
"""Parameters of a query that are not conditions."""

CONDITION_PARAMETERS = [
    {
        "name": condition.name,
        "in": "query",
        "description": f"{html.escape(condition.describe())}; may be repeated.",
        "schema": {"type": "array", "items": {"type": "string"}},
    }
    for condition in model.spec.conditions
]
"""Description of the conditions in /docs."""


class Health(BaseModel):
    status: str = "ok"
    model: str
    image_shape: tuple[int, int, int] = Field(description="Channels, height, width.")
    classes: list[str] | None
    conditions: list[dict[str, Any]] = Field(description="Name, kind, and values or range of each condition.")


class ImageRequest(BaseModel):
    n: int = Field(default=1, ge=1, le=MAX_IMAGES)
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    temperature: float = Field(default=1.0, ge=0, le=4)
    extrapolate: bool = False
    conditions: dict[str, Any] = Field(
        default={}, description="Values by name: one for all images, or a list through which they cycle."
    )


class GeneratedImages(BaseModel):
    model: str
    seed: int
    labels: list[str] | None
    conditions: list[dict[str, Any]] = Field(description="Values of each image by name; null is unknown.")
    images: list[list[list[list[float]]]] = Field(description="(N, C, H, W), values in [0, 1].")


def read_conditions(request: Request) -> dict[str, list[str]]:
    """Return the values of the conditions in a query by name, including names that the model does not have."""
    query = request.query_params
    return {name: query.getlist(name) for name in query if name not in PARAMETERS}


Conditions = Annotated[dict[str, list[str]], Depends(read_conditions)]


@app.exception_handler(cvae.UsageError)
def handle_usage_error(request: Request, error: cvae.UsageError) -> JSONResponse:
    """Respond with a one-line error, for example for an unknown label."""
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.get("/health")
def health() -> Health:
    spec = model.spec
    return Health(
        model=spec.name,
        image_shape=spec.image_shape,
        classes=spec.classes and list(spec.classes),
        conditions=[condition.to_json() for condition in spec.conditions],
    )


@app.get("/images", openapi_extra={"parameters": CONDITION_PARAMETERS})
def images(
    conditions: Conditions,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    extrapolate: Extrapolate = False,
) -> GeneratedImages:
    """Generate images as JSON numbers."""
    return to_json(*generate(conditions, label_index, n, seed, temperature, extrapolate))


@app.post("/images")
def images_from_json(body: ImageRequest) -> GeneratedImages:
    """Generate images as JSON numbers."""
    return to_json(*generate(body.conditions, None, body.n, body.seed, body.temperature, body.extrapolate))


@app.get(
    "/images.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    openapi_extra={"parameters": CONDITION_PARAMETERS},
)
def png(
    conditions: Conditions,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    extrapolate: Extrapolate = False,
    enlarge: Annotated[bool, Query(description="Enlarge small images, so that details are visible.")] = True,
) -> Response:
    """Generate images as one PNG. The header X-Seed contains the seed."""
    pixels, _, seed = generate(conditions, label_index, n, seed, temperature, extrapolate)
    data = io.BytesIO()
    image = imaging.grid(pixels)
    (imaging.enlarge(image) if enlarge else image).save(data, "PNG")
    return Response(data.getvalue(), media_type="image/png", headers={"X-Seed": str(seed)})


def generate(
    conditions: dict[str, Any],
    label_index: list[int] | None,
    n: int,
    seed: int | None,
    temperature: float,
    extrapolate: bool = False,
) -> tuple[Images, list[dict[str, Any]], int]:
    """Return images (n, C, H, W), the conditions of each image, and the seed.

    Raises:
        cvae.UsageError: If the model does not have a condition or a value, or a list is empty or too long.
    """
    spec = model.spec
    lists = {name: value for name, value in conditions.items() if is_list(name, value)}
    if label_index is None and not conditions and spec.classes and not spec.conditions[0].optional:
        label_index = list(range(len(spec.classes)))
    if label_index is not None:
        lists["label_index"] = label_index
    for name, value in lists.items():
        if not 1 <= len(value) <= MAX_IMAGES:
            raise cvae.UsageError(f"{name} has {len(value)} values; give 1 to {MAX_IMAGES}")
    count = max([n, *map(len, lists.values())])  # so that every value is checked, also if n is smaller
    cycles = {name: [value[i % len(value)] for i in range(count)] for name, value in lists.items()}
    indices, values = cycles.pop("label_index", None), conditions | cycles
    label = values.pop("label", None)  # which also names a category of another name, if it is the only condition
    rows = condition_rows(spec, count, label, indices, values, extrapolate=extrapolate)
    rows = None if rows is None else rows[:n]
    seed = secrets.randbelow(2**31) if seed is None else seed
    pixels = model.decode_rows(model.noise(n, seed) * np.float32(temperature), rows)
    return pixels, describe_rows(spec.conditions, rows) or [{}] * n, seed


def is_list(name: str, value: Any) -> bool:
    """Return whether a value is a list with values for several images, rather than one value for all of them."""
    condition = next((condition for condition in model.spec.conditions if condition.name == name), None)
    return isinstance(value, list) and (condition is None or is_per_image(condition, value))


def to_json(pixels: Images, conditions: list[dict[str, Any]], seed: int) -> GeneratedImages:
    return GeneratedImages(
        model=model.spec.name, seed=seed, labels=pixels.labels, conditions=conditions, images=pixels.tolist()
    )
