"""A scorer that runs exported files in onnxruntime. Does not import torch."""

import statistics
import time
from typing import NamedTuple

import numpy as np

from cvae.condition_rows import unknown_rows
from cvae.errors import UsageError, install_command
from cvae.evaluation.bounds import Samples
from cvae.run import DECODER, exported_file
from cvae.runtime.density import gaussian_kl, log_prob
from cvae.runtime.model import Model

TIMED_IMAGES = 30
"""Number of images to measure the decoding time with."""


class Encoded(NamedTuple):
    """A batch of images, their rows, and the mean and standard deviation (B, Z) of their posteriors."""

    images: np.ndarray
    rows: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray


class ExportedScorer:
    """A scorer that runs an exported decoder and encoder in onnxruntime.

    The encoder's mean and standard deviation in noise space define a normal proposal for importance sampling, and the
    prior in noise space is standard normal, so the bounds are valid for the trained model. With a flow prior or a
    hierarchy, the proposal differs from the trained posterior, and the bounds are looser than those of `RunScorer`.

    Raises:
        UsageError: If the exported file does not define p(x | z) completely.
    """

    backend = "onnxruntime, normal proposal in noise space"

    def __init__(self, model: Model) -> None:
        spec = model.spec
        if spec.likelihood != "bernoulli" and spec.sigma is None:
            raise UsageError(
                f"{spec.name!r} has the likelihood {spec.likelihood!r}, but an exported file has only the mean of "
                f"p(x | z), which is enough for 'bernoulli' and, with sigma in the spec, for a gaussian; evaluate the "
                f"run's folder instead, which needs torch: {install_command('train')}"
            )
        self.model = model
        self.name, self.image_shape, self.latent_dim = spec.name, spec.image_shape, spec.latent_dim
        self.conditions, self.classes = spec.conditions, spec.classes
        self.likelihood, self.discrete = spec.likelihood, False
        self.groups: tuple[int, ...] = (spec.latent_dim,)

    def decode(self, noise: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        return self.model.decode_rows(noise, rows)

    def reconstruct(self, images: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        return self.model.decode_rows(self.model.encode_rows(images, rows).mean, rows)

    def encode(self, images: np.ndarray, rows: np.ndarray | None) -> Encoded:
        return Encoded(images, rows, *self.model.encode_rows(images, rows))

    def sample(self, encoded: Encoded, noise: np.ndarray) -> Samples:
        images, rows, mean, std = encoded
        batch, count, latent_dim = noise.shape
        code = mean[:, None] + std[:, None] * noise  # (B, K, Z)
        repeated = None if rows is None else rows.repeat(count, axis=0)
        pixels = self.model.decode_rows(code.reshape(-1, latent_dim), repeated)  # (B K, C, H, W)
        log_probs = log_prob(self.model.spec, images.reshape(batch, 1, -1), pixels.reshape(batch, count, -1))
        rate = gaussian_kl(mean, std).sum(1)[:, None, None]  # (B, 1, 1)
        shape = (batch, count, latent_dim)
        return Samples(
            distortion=-log_probs.sum(2),
            log_ratio=(0.5 * (code**2 - noise**2) - np.log(std)[:, None]).sum(2),
            rate=np.broadcast_to(rate, (batch, count, 1)),
            mean=np.broadcast_to(mean[:, None], shape),
            var=np.broadcast_to(std[:, None] ** 2, shape),
        )


def measure_runtime(model: Model) -> dict[str, float]:
    """Return the size of the decoder's file in MB, and the median time in milliseconds to decode a single image."""
    rows = unknown_rows(model.spec.conditions, 1) if model.classes is None else np.zeros(1, np.int64)
    times = []
    for code in model.noise(TIMED_IMAGES, 0):
        start = time.perf_counter()
        model.decode_rows(code[None], rows)
        times.append(1000 * (time.perf_counter() - start))
    megabytes = exported_file(model.path, DECODER).stat().st_size / 1e6
    return {"decoder_megabytes": megabytes, "milliseconds_per_image": statistics.median(times)}
