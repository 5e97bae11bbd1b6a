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
import json
import math
import os
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from work_queue import MaxBodySize, TimedResponse, WorkQueue, slices

import cvae
from cvae import imaging
from cvae.conditions import single_category
from cvae.runtime.arguments import random_seed
from cvae.runtime.conditions import condition_rows, describe_rows, is_per_image

# The model is thread-safe, so all requests share it. Each step of a request runs on one core.
model = cvae.load(os.environ.get("CVAE_MODEL"), threads=1)

VALUES_PER_IMAGE = math.prod(model.spec.image_shape)

MAX_IMAGES = max(1, min(256, 2**20 // VALUES_PER_IMAGE))
"""Maximum number of images per request, which limits a response to a million values, 4 MB, or a single image."""

MAX_VALUES = 256
"""Maximum number of values of a condition in a request."""

CHUNK = max(1, min(64, 2**18 // VALUES_PER_IMAGE))
"""Number of images that are decoded in one step. A request ends after the current step if its client disconnects."""

MAX_BODY_BYTES = 2**20

# One core is left for the event loop, which receives requests, sends responses, and responds to /health.
queue = WorkQueue(max_requests=32, threads=max(1, (os.cpu_count() or 1) - 1))
# The name may come from an untrusted file, and FastAPI writes the title into the HTML of /docs as it is.
app = FastAPI(title=f"cvae: {html.escape(model.spec.name)}")
app.add_middleware(MaxBodySize, max_bytes=MAX_BODY_BYTES)

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


BUSY: dict[int | str, dict[str, Any]] = {503: {"description": "Too many requests; retry after Retry-After seconds."}}

JSON_ROUTE: dict[str, Any] = {
    "dependencies": [Depends(queue.place)],
    "responses": {200: {"model": GeneratedImages}, **BUSY},
}


async def read_conditions(request: Request) -> dict[str, list[str]]:
    """Return the values of the conditions in a query by name, including names that the model does not have."""
    query = request.query_params
    return {name: query.getlist(name) for name in query if name not in PARAMETERS}


Conditions = Annotated[dict[str, list[str]], Depends(read_conditions)]


@app.exception_handler(cvae.UsageError)
async def handle_usage_error(request: Request, error: cvae.UsageError) -> JSONResponse:
    """Respond with a one-line error, for example for an unknown label."""
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.exception_handler(ClientDisconnect)
async def handle_disconnect(request: Request, error: ClientDisconnect) -> Response:
    """Complete a request whose client has disconnected, and will not receive the response."""
    return Response(status_code=499)


@app.get("/health")
async def health() -> Health:
    """Describe the model. This does not wait for the queue, nor for a thread."""
    spec = model.spec
    return Health(
        model=spec.name,
        image_shape=spec.image_shape,
        classes=spec.classes and list(spec.classes),
        conditions=[condition.to_json() for condition in spec.conditions],
    )


@app.get("/images", openapi_extra={"parameters": CONDITION_PARAMETERS}, **JSON_ROUTE)
async def images(
    request: Request,
    conditions: Conditions,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    extrapolate: Extrapolate = False,
) -> Response:
    """Generate images as JSON numbers."""
    rows = find_rows(conditions, label_index, n, extrapolate)
    return await respond_with_json(request, rows, n, seed, temperature)


@app.post("/images", **JSON_ROUTE)
async def images_from_json(request: Request, body: ImageRequest) -> Response:
    """Generate images as JSON numbers."""
    rows = find_rows(body.conditions, None, body.n, body.extrapolate)
    return await respond_with_json(request, rows, body.n, body.seed, body.temperature)


@app.get(
    "/images.png",
    dependencies=[Depends(queue.place)],
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **BUSY},
    openapi_extra={"parameters": CONDITION_PARAMETERS},
)
async def png(
    request: Request,
    conditions: Conditions,
    label_index: LabelIndex = None,
    n: Count = 1,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    extrapolate: Extrapolate = False,
    enlarge: Annotated[bool, Query(description="Enlarge small images, so that details are visible.")] = True,
) -> Response:
    """Generate images as one PNG. The header X-Seed contains the seed."""
    rows = find_rows(conditions, label_index, n, extrapolate)
    seed = random_seed() if seed is None else seed
    chunks = [chunk async for chunk in generate(request, rows, n, seed, temperature)]
    data = await queue.run(request, to_png, np.concatenate(chunks), enlarge)
    headers = {"X-Seed": str(seed), "Content-Length": str(len(data))}
    return TimedResponse(slices(data), media_type="image/png", headers=headers)


def find_rows(
    conditions: dict[str, Any], label_index: list[int] | None, n: int, extrapolate: bool = False
) -> np.ndarray | None:
    """Return the conditions of n images as rows (see `cvae.condition_rows`), or None for a model without conditions.

    Raises:
        cvae.UsageError: If the model does not have a condition or a value, or a list is empty or too long.
    """
    spec = model.spec
    lists = {name: value for name, value in conditions.items() if is_list(name, value)}
    if label_index is None and not conditions and spec.classes and not spec.conditions[0].optional:
        return np.arange(n) % len(spec.classes)
    if label_index is not None:
        lists["label_index"] = label_index
    for name, value in lists.items():
        if not 1 <= len(value) <= MAX_VALUES:
            raise cvae.UsageError(f"{name} has {len(value)} values; give 1 to {MAX_VALUES}")
    count = max([n, *map(len, lists.values())])  # so that every value is checked, also if n is smaller
    cycles = {name: [value[i % len(value)] for i in range(count)] for name, value in lists.items()}
    indices, values = cycles.pop("label_index", None), conditions | cycles
    label = values.pop("label", None)  # which also names a category of another name, if it is the only condition
    rows = condition_rows(spec, count, label, indices, values, extrapolate=extrapolate)
    return None if rows is None else rows[:n]


def is_list(name: str, value: Any) -> bool:
    """Return whether a value is a list with values for several images, rather than one value for all of them."""
    condition = next((condition for condition in model.spec.conditions if condition.name == name), None)
    return isinstance(value, list) and (condition is None or is_per_image(condition, value))


async def generate(
    request: Request, rows: np.ndarray | None, n: int, seed: int, temperature: float
) -> AsyncIterator[np.ndarray]:
    """Yield n images in chunks (b, C, H, W), under the conditions in `rows`."""
    noise = await queue.run(request, model.noise, n, seed)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        chunk_rows = None if rows is None else rows[part]
        yield await queue.run(request, model.decode_rows, noise[part] * np.float32(temperature), chunk_rows)


async def respond_with_json(
    request: Request, rows: np.ndarray | None, n: int, seed: int | None, temperature: float
) -> Response:
    """Return a response with generated images in the form of `GeneratedImages`."""
    seed = random_seed() if seed is None else seed
    conditions = describe_rows(model.spec.conditions, rows) or [{}] * n
    category = single_category(model.spec.conditions)
    labels = [values[category.name] for values in conditions] if category else [None]
    head = {
        "model": model.spec.name,
        "seed": seed,
        "labels": None if None in labels else labels,
        "conditions": conditions,
    }
    chunks = generate(request, rows, n, seed, temperature)
    first = await anext(chunks)  # before the response starts, so that an error of the model is not sent as a success
    return TimedResponse(write_json(request, head, first, chunks), media_type="application/json")


async def write_json(
    request: Request, head: dict[str, Any], first: np.ndarray, chunks: AsyncIterator[np.ndarray]
) -> AsyncIterator[bytes]:
    """Yield a JSON document in pieces. Each chunk of images is decoded when the one before it has been sent."""
    yield f'{json.dumps(head)[:-1]}, "images": ['.encode()
    for piece in slices(await queue.run(request, to_json, first)):
        yield piece
    async for chunk in chunks:
        for piece in slices(b", " + await queue.run(request, to_json, chunk)):
            yield piece
    yield b"]}"


def to_json(pixels: np.ndarray) -> bytes:
    """Return images (N, C, H, W) as JSON without the outer brackets, rounded to six decimal places."""

    def join(items: Iterable[str]) -> str:
        return f"[{', '.join(items)}]"

    # Each row is a call of its own, because no other thread can run during a call of json.dumps, not even for /health.
    images = pixels.astype(np.float64).round(6).tolist()
    return ", ".join(join(join(map(json.dumps, channel)) for channel in image) for image in images).encode()


def to_png(pixels: np.ndarray, enlarge: bool) -> bytes:
    """Return images (N, C, H, W) as the bytes of one PNG."""
    data = io.BytesIO()
    image = imaging.grid(pixels)
    (imaging.enlarge(image) if enlarge else image).save(data, "PNG")
    return data.getvalue()
