"""Exported model that generates, encodes and interpolates images on onnxruntime."""

import math
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cvae.errors import CvaeError, UsageError
from cvae.imaging.interpolation import lerp, slerp
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime.arguments import (
    Indices,
    Label,
    Labels,
    check_array,
    check_count,
    check_generate_args,
    check_memory,
    label_indices,
)
from cvae.runtime.array import Images
from cvae.runtime.find import find
from cvae.runtime.session import Session
from cvae.runtime.weights import check_weights
from cvae.spec import Spec

ROUNDING = 0.01
"""Distance from 0..1 up to which images are clipped: more than any rounding error, less than 3 of 256 grey values."""

MIN_PROBABILITY = np.float32(2**-24)
"""Smallest probability of a pixel's value that float32 can tell from 0: the spacing of its numbers just below 1."""


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    spinning: bool = False,
    arena: bool = False,
) -> "Model":
    """Load an exported model.

    Args:
        name_or_path: A run folder, the file of a decoder, the name of a run under `runs/` or of a zoo model, or
            hf://owner/name[@revision], which is downloaded from the hub. None loads the zoo's default model.
        device: "cpu", "cuda", "auto" or the name of an onnxruntime provider. It is an error if it is not available.
        threads: Number of threads that one call uses; one per core by default.
        spinning: Let the threads spin between calls, which is faster in a tight loop but uses CPU time.
        arena: Keep freed memory for the next call.

    Returns:
        The model.

    Raises:
        UsageError: If there is no such model or device, or the run has other weights than those that its decoder was
            exported from.
        CvaeError: If a file is damaged, was not exported by cvae or not exported yet, or can't be downloaded.
    """
    return Model(find(name_or_path), device=device, threads=threads, spinning=spinning, arena=arena)


class Model:
    """Exported decoder, with the encoder in the same folder, which is loaded on first use. Safe for several threads.

    Images are arrays (N, C, H, W) float32 in [0, 1] with the methods `to_pil()` and `save(path)`. Codes and noise are
    (N, Z) float32. If the model has labels, every method takes the class either as `label`, by name (see
    `Spec.label_index`), or as `label_index`, by its index in `spec.classes`: one for all images, or one for each.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path
        self._options = options
        self._decoder = Session(exported_file(path, DECODER), "decoder", **options)
        check_weights(path, self.spec)
        self._encoder: Session | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        spec = self.spec
        labels = "no labels" if spec.classes is None else f"{len(spec.classes)} classes"
        shape = "x".join(map(str, spec.image_shape))
        return f"<cvae.Model {spec.name}: {spec.architecture}, {shape}, latent {spec.latent_dim}, {labels}>"

    @property
    def spec(self) -> Spec:
        """Spec of the model, as embedded in the decoder."""
        return self._decoder.spec

    def generate(
        self,
        n: int = 1,
        label: Labels = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        label_index: Indices = None,
    ) -> Images:
        """Generate images.

        Args:
            n: Number of images.
            label: Name of the class, or one for each image. Without it, a model with labels takes its classes in turn.
            seed: Seed of the noise, which gives the same images on every machine; random by default.
            temperature: Standard deviation of the noise. Values below 1 give more typical images, values above 1 more
                varied ones.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Images (n, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: If the model has no such label, or n or temperature is out of range.
        """
        n = check_generate_args(n, temperature)
        check_memory(self.spec, "n", n, "write them to files: cvae generate -n N --out images.npy")
        if label is None and label_index is None and self.spec.classes is not None:
            label_index = np.arange(n) % len(self.spec.classes)
        return self.decode(self.noise(n, seed) * np.float32(temperature), label, label_index=label_index)

    def noise(self, n: int, seed: int | None = None) -> np.ndarray:
        """Return standard normal noise (n, Z) float32. For the same seed, a larger n only appends rows."""
        n = check_count("n", n)
        check_memory(self.spec, "n", n, "draw them in parts")
        if seed is not None:
            seed = check_count("seed", seed, minimum=0)
        return np.random.default_rng(seed).standard_normal((n, self.spec.latent_dim), dtype=np.float32)

    def decode(self, noise: np.ndarray, label: Labels = None, *, label_index: Indices = None) -> Images:
        """Decode noise or codes.

        Args:
            noise: Noise or codes (N, Z).
            label: Name of the class, or one for each image.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: If the shape or a label does not fit the model.
            CvaeError: If onnxruntime fails, or the decoder returns values that are not in [0, 1].
        """
        noise = check_array(noise, (self.spec.latent_dim,), "noise")
        images = self._decoder.run({"noise": noise} | self._labels(label, label_index, len(noise)))[0]
        low, high = float(images.min()), float(images.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise CvaeError(
                f"{str(exported_file(self._path, DECODER))!r} contradicts its own spec: it returns images with values "
                f"in {low:g}..{high:g}, not 0..1; use a file written by cvae export onnx"
            )
        if low < 0 or high > 1:
            np.clip(images, 0, 1, out=images)
        return images.view(Images)

    def encode(
        self, images: np.ndarray, label: Labels = None, *, label_index: Indices = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode images into noise space.

        Args:
            images: Images (N, C, H, W) in [0, 1].
            label: Name of the class, or one for each image.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Mean (N, Z) and standard deviation (N, Z) of the codes.

        Raises:
            UsageError: If the shape or a label does not fit the model.
            CvaeError: If there is no encoder in the decoder's folder, or it returns an invalid standard deviation.
        """
        images = check_array(images, self.spec.image_shape, "images")
        if images.min() < 0 or images.max() > 1:
            raise UsageError(f"images have values in {images.min():g}..{images.max():g}; scale them to 0..1")
        with self._lock:
            if self._encoder is None:
                self._encoder = Session(exported_file(self._path, ENCODER), "encoder", **self._options)
                if self._encoder.spec.weights != self.spec.weights:
                    name, self._encoder = self._encoder.spec.name, None
                    raise UsageError(
                        f"the {ENCODER} in the folder of {self.spec.name!r} was exported from other weights, those of "
                        f"{name!r}; export both again: cvae export onnx {self._path}"
                    )
        mean, std = self._encoder.run({"image": images} | self._labels(label, label_index, len(images)))
        if not (lowest := float(std.min())) > 0:
            raise CvaeError(
                f"{str(exported_file(self._path, ENCODER))!r} contradicts its own spec: it returns the standard "
                f"deviation {lowest:g}, which must be positive; use a file written by cvae export onnx"
            )
        return mean, std

    def reconstruct(self, images: np.ndarray, label: Labels = None, *, label_index: Indices = None) -> Images:
        """Reconstruct images (N, C, H, W) in [0, 1] from the means of their codes."""
        return self.decode(self.encode(images, label, label_index=label_index)[0], label, label_index=label_index)

    def restyle(
        self,
        images: np.ndarray,
        label: Labels = None,
        to: Labels = None,
        *,
        label_index: Indices = None,
        to_index: Indices = None,
    ) -> Images:
        """Change the class of images but not their style, by decoding their codes with another label.

        Args:
            images: Images (N, C, H, W) in [0, 1].
            label: Name of the class of the images, or one for each image.
            to: Name of the class to change them to, or one for each image.
            label_index: Index of the class of the images, instead of `label`.
            to_index: Index of the class to change them to, instead of `to`.
        """
        return self.decode(self.encode(images, label, label_index=label_index)[0], to, label_index=to_index)

    def nearest_label(self, images: np.ndarray) -> np.ndarray:
        """Return the index of the class (N,) that fits each of the images (N, C, H, W) best.

        The best class is the one with the lowest negative bound in nats, evaluated at the mean of the code. The
        distortion alone is not enough, because a wrong class with an unlikely code reconstructs an image well too.

        Raises:
            UsageError: If the model has no labels.
        """
        if self.spec.classes is None:
            raise UsageError(f"{self.spec.name!r} was trained without labels")
        nats = []
        for index in range(len(self.spec.classes)):
            mean, std = self.encode(images, label_index=index)
            reconstruction = self.decode(mean, label_index=index)
            distortion = -log_prob(self.spec, images, reconstruction).sum(axis=(1, 2, 3))  # -> (N,)
            nats.append(distortion + gaussian_kl(mean, std).sum(1))  # (N, Z) -> (N,)
        return np.argmin(nats, axis=0)

    def interpolate(
        self,
        a: int | np.ndarray,
        b: int | np.ndarray,
        steps: int = 10,
        label: Label | tuple[Label, Label] | None = None,
        mode: str = "slerp",
        *,
        label_index: int | tuple[int, int] | None = None,
    ) -> Images:
        """Interpolate between two codes.

        Args:
            a: Start: a seed (int), a code (Z,) or an image (C, H, W).
            b: End, like `a`.
            steps: Number of images, which include the start and the end.
            label: Name of the class, or a pair for the start and the end. Between two classes, each image is a mean of
                the two decodings, weighted by position: the decoder's mean for a label drawn with these probabilities.
            mode: "slerp" (along the sphere, where the mass of the prior is; Shoemake 1985) or "lerp" (straight).
            label_index: Index of the class, or a pair, instead of `label`.

        Returns:
            Images (steps, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: If an argument is out of range or does not fit the model.
        """
        steps = check_count("steps", steps, minimum=2)
        check_memory(self.spec, "steps", steps, "take fewer steps")
        if mode not in ("slerp", "lerp"):
            raise UsageError(f"mode {mode!r} is neither 'slerp' nor 'lerp'")
        indices = label_indices(self.spec, label, label_index, 2, "ends")
        first, last = (None, None) if indices is None else indices.tolist()
        positions = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # (steps, 1)
        codes = {"slerp": slerp, "lerp": lerp}[mode](self._code(a, first), self._code(b, last), positions)
        images = self.decode(codes, label_index=first)  # (steps, C, H, W)
        if first != last:
            weight = positions[:, :, None, None]  # (steps, 1) -> (steps, 1, 1, 1)
            images = ((1 - weight) * images + weight * self.decode(codes, label_index=last)).view(Images)
        return images

    def _code(self, end: int | np.ndarray, index: int | None) -> np.ndarray:
        """Return the code (Z,) of an end of an interpolation: a seed, a code or an image."""
        if isinstance(end, int | np.integer):
            return self.noise(1, int(end))[0]
        if np.ndim(end) == 1:
            return check_array(np.asarray(end)[None], (self.spec.latent_dim,), "codes")[0]
        return self.encode(np.asarray(end)[None], label_index=index)[0][0]

    def _labels(self, label: Labels, label_index: Indices, count: int) -> dict[str, np.ndarray]:
        """Return the class indices as an input of the graph, if it has labels."""
        indices = label_indices(self.spec, label, label_index, count)
        return {} if indices is None else {"label": indices}


def log_prob(spec: Spec, images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return log p(x | z) of each value of images in [0, 1], in nats.

    For a likelihood that the mean does not determine, such as a logistic mixture, this is the cross-entropy.

    Args:
        spec: Spec of the model.
        images: Images x in [0, 1].
        mean: Mean of p(x | z), of the same shape.
    """
    if spec.sigma is not None:
        return -0.5 * (((images - mean) / spec.sigma) ** 2 + math.log(2 * math.pi)) - math.log(spec.sigma)
    mean = np.clip(mean, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return images * np.log(mean) + (1 - images) * np.log1p(-mean)


def gaussian_kl(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return KL(N(mean, std^2) || N(0, 1)) in nats, elementwise."""
    return 0.5 * (mean**2 + std**2 - 1) - np.log(std)
