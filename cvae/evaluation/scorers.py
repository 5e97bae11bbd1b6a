"""The two kinds of model whose bounds can be taken: a run with torch, and exported files without."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cvae.errors import UsageError
from cvae.evaluation.bounds import Samples
from cvae.runtime.model import Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cvae.models import VAE

SMALLEST = np.float32(2**-24)
"""A pixel's probability in a picture is known to this: what float32 leaves between it and one."""


class ExportedScorer:
    """An exported decoder and encoder in onnxruntime.

    The encoder's mean and deviation in the space of the noise are a normal proposal for importance sampling, and the
    prior there is standard normal: the bounds are bounds of the same model. Under a flow prior or in a hierarchy the
    proposal is not the posterior that the model was trained with, and so they are looser than those of the run.
    """

    backend = "onnxruntime, normal proposal in the space of the noise"

    def __init__(self, model: Model) -> None:
        spec = model.spec
        if spec.likelihood != "bernoulli":
            raise UsageError(
                f"an exported file gives the mean of p(x | z) alone, which is all of it for 'bernoulli' only, and "
                f"{spec.name!r} has {spec.likelihood!r}: evaluate the run's folder (with torch: pip install "
                "'cvae-onnx[train]')"
            )
        self.model = model
        self.name, self.image_shape, self.latent_dim = spec.name, spec.image_shape, spec.latent_dim
        self.classes, self.likelihood = spec.classes, spec.likelihood

    def decode(self, noise: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return self.model.decode(noise, labels)

    def reconstruct(self, images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return self.model.reconstruct(images, labels)

    def encode(self, images: np.ndarray, labels: np.ndarray | None) -> Any:
        return images, labels, *self.model.encode(images, labels)

    def sample(self, encoded: Any, noise: np.ndarray) -> Samples:
        images, labels, mean, std = encoded
        batch, count, latent_dim = noise.shape
        code = mean[:, None] + std[:, None] * noise  # (B, K, Z)
        repeated = None if labels is None else labels.repeat(count)
        white = self.model.decode(code.reshape(-1, latent_dim), repeated).reshape(batch, count, -1)  # (B, K, C H W)
        white = white.clip(SMALLEST, 1 - SMALLEST)
        image = images.reshape(batch, 1, -1)
        log_prob = image * np.log(white) + (1 - image) * np.log1p(-white)
        rate = 0.5 * (mean**2 + std**2 - 1) - np.log(std)  # (B, Z)
        each = (batch, count, latent_dim)
        return Samples(
            distortion=-log_prob.sum(2),
            log_ratio=(0.5 * (code**2 - noise**2) - np.log(std)[:, None]).sum(2),
            rate=np.broadcast_to(rate[:, None], each),
            mean=np.broadcast_to(mean[:, None], each),
            var=np.broadcast_to(std[:, None] ** 2, each),
        )


class Seen(NamedTuple):
    """A batch of images, their labels, and what the encoder gave for them."""

    image: "Tensor"
    label: "Tensor | None"
    features: "tuple[Tensor, ...]"


class RunScorer:
    """A run's weights in torch, with the posterior that they were trained with."""

    def __init__(self, run: Path, device: str = "auto", precision: str = "fp32") -> None:
        import torch

        from cvae.engine import load_model
        from cvae.engine.setup import choose_device, choose_precision

        self.device = choose_device(device)
        precision = choose_precision(precision, self.device)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        model, config = load_model(run)
        self.model: VAE = model.to(self.device).eval()
        self.name, self.backend = run.resolve().name, f"torch, {precision}"
        self.image_shape, self.latent_dim = config.model.image_shape, config.model.latent_dim
        self.classes, self.likelihood = config.model.classes, config.model.likelihood.name

    def _autocast(self) -> "torch.autocast":
        import torch

        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not None)

    def _tensor(self, array: np.ndarray | None) -> Any:
        import torch

        return None if array is None else torch.from_numpy(array).to(self.device)

    def decode(self, noise: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.model.decode(self._tensor(noise), self._tensor(labels)).cpu().numpy()

    def reconstruct(self, images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        import torch

        label = self._tensor(labels)
        with torch.inference_mode():
            return self.model.decode(self.model.encode(self._tensor(images), label)[0], label).cpu().numpy()

    def encode(self, images: np.ndarray, labels: np.ndarray | None) -> Seen:
        import torch

        image, label = self._tensor(images), self._tensor(labels)
        with torch.inference_mode(), self._autocast():
            return Seen(image, label, self.model.encoder(image, label))

    def sample(self, encoded: Seen, noise: np.ndarray) -> Samples:
        import torch

        batch, count, _ = noise.shape
        drawn = self._tensor(noise).flatten(0, 1)  # (B, K, Z) -> (B K, Z)
        with torch.inference_mode(), self._autocast():
            terms = self.model.terms(encoded.image, encoded.label, encoded.features, drawn)
        rate = terms.rate
        groups = getattr(self.model.decoder, "groups", None)
        if groups is not None and rate.shape[1] == self.latent_dim:
            rate = torch.stack([group.sum(1) for group in rate.split(groups, dim=1)], dim=1)  # (B K, Z) -> (B K, G)
        distortion, log_ratio, rate, mean, var = (
            each.unflatten(0, (batch, count)).cpu().numpy()
            for each in (terms.distortion, terms.log_ratio, rate, terms.mean, terms.log_var.exp())
        )
        return Samples(distortion, log_ratio, rate, mean, var)
