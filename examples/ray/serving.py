"""Deployment of a model on Ray Serve. It batches simultaneous requests. The model can be in a Triton model repository.

serve run --app-dir examples/ray serving:app model=model_repository/mnist-resnet-conditional/1/model.onnx
curl -o seven.png 'http://127.0.0.1:8000/?label=7'
curl -o face.png 'http://127.0.0.1:8000/?age=40&smiling=yes'

The conditions of a model are parameters with their names. A condition that is left out is unknown. If a model needs a
label, the default is its first class. `extrapolate=1` accepts numbers beyond the range of the training data.
"""

import io
import secrets
from pathlib import Path

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import cvae
from cvae.conditions import single_category
from cvae.imaging import to_pil
from cvae.runtime.conditions import condition_rows


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Digits:
    """Deployment that responds to each request with a PNG image."""

    def __init__(self, model: str | None) -> None:
        self.model = cvae.load(model, threads=1)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def generate(self, rows: list[np.ndarray | None], seeds: list[int]) -> list[np.ndarray]:
        """Return one image (C, H, W) per request in the batch, given the conditions and the seed of each request."""
        noise = np.concatenate([self.model.noise(1, seed) for seed in seeds])  # (N, Z)
        return list(self.model.decode_rows(noise, np.concatenate(rows) if self.model.spec.conditions else None))

    async def __call__(self, request: Request) -> Response:
        values = dict(request.query_params)
        seed = values.pop("seed", str(secrets.randbelow(2**31)))
        extrapolate = values.pop("extrapolate", "0").lower() in ("1", "true")
        try:
            row = self.parse_conditions(values, extrapolate)
        except cvae.UsageError as error:  # checked here, because an error in `generate` would make the whole batch fail
            return PlainTextResponse(f"{error}\n", status_code=422)
        if not seed.isdecimal() or len(seed) > 18:
            return PlainTextResponse(
                f"{seed!r} is not a valid seed; use an integer of at most 18 digits\n", status_code=422
            )
        data = io.BytesIO()
        to_pil(await self.generate(row, int(seed))).save(data, "PNG")
        return Response(data.getvalue(), media_type="image/png", headers={"X-Seed": seed})

    def parse_conditions(self, values: dict[str, str], extrapolate: bool) -> np.ndarray | None:
        """Return the row (1, W) or (1,) of the conditions of an image (see `cvae.condition_rows`)."""
        spec = self.model.spec
        label, category = values.pop("label", None), single_category(spec.conditions)
        if label is None and category is not None and not category.optional and not values:
            label = category.values[0]
        return condition_rows(spec, 1, label, values=values, extrapolate=extrapolate)


def app(arguments: dict[str, str]) -> serve.Application:
    """Build the application from the command-line arguments of `serve run`."""
    model = arguments.get("model")
    return Digits.bind(str(Path(model).resolve()) if model and Path(model).exists() else model)
