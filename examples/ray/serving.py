"""Deployment of a model on Ray Serve. It batches simultaneous requests. The model can be in a Triton model repository.

serve run --app-dir examples/ray serving:app model=model_repository/mnist-resnet-conditional/1/model.onnx
curl -o seven.png 'http://127.0.0.1:8000/?label=7'
"""

import io
import secrets
from pathlib import Path

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import cvae
from cvae.imaging import to_pil


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Digits:
    """Deployment that responds to each request with a PNG image."""

    def __init__(self, model: str | None) -> None:
        self.model = cvae.load(model, threads=1)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def generate(self, labels: list[int | None], seeds: list[int]) -> list[np.ndarray]:
        """Return one image (C, H, W) per request in the batch, given the class index and seed of each request."""
        noise = np.concatenate([self.model.noise(1, seed) for seed in seeds])  # (N, Z)
        return list(self.model.decode(noise, label_index=None if self.model.spec.classes is None else labels))

    async def __call__(self, request: Request) -> Response:
        query, spec = request.query_params, self.model.spec
        seed = query.get("seed", str(secrets.randbelow(2**31)))
        try:
            label = None if spec.classes is None else spec.label_index(query.get("label", spec.classes[0]))
        except cvae.UsageError as error:  # checked here, because an error in `generate` would make the whole batch fail
            return PlainTextResponse(f"{error}\n", status_code=422)
        if not seed.isdecimal() or len(seed) > 18:
            return PlainTextResponse(
                f"{seed!r} is not a valid seed; use an integer of at most 18 digits\n", status_code=422
            )
        data = io.BytesIO()
        to_pil(await self.generate(label, int(seed))).save(data, "PNG")
        return Response(data.getvalue(), media_type="image/png", headers={"X-Seed": seed})


def app(arguments: dict[str, str]) -> serve.Application:
    """Build the application from the command-line arguments of `serve run`."""
    model = arguments.get("model")
    return Digits.bind(str(Path(model).resolve()) if model and Path(model).exists() else model)
