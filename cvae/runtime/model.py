"""An exported model as an object: noise in, pictures out."""

import math
import operator
import os
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cvae.errors import CvaeError, UsageError
from cvae.imaging.interpolation import lerp, slerp
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime.array import Images
from cvae.runtime.find import find
from cvae.runtime.session import Session
from cvae.spec import Spec, quote_label

Label = float | str
MAX_TEMPERATURE = 1000


ROUNDING = 0.01
"""Images this far outside 0..1 are clipped: it is more than any rounding, and less than three of 256 grey values."""

SMALLEST = np.float32(2**-24)
"""A pixel's probability in a picture is known to this: what float32 leaves between it and one."""

Labels = Label | Sequence[Label] | np.ndarray | None
"""One label for all images, one for each, or none. A label is a class's name, or a number equal to it."""

Indices = int | Sequence[int] | np.ndarray | None
"""One class index for all images, one for each, or none. Indices count from 0."""


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    spinning: bool = False,
    arena: bool = False,
) -> "Model":
    """Load an exported model: a run folder, a decoder's file, the name of a zoo model, or nothing for the default.

    Args:
        name_or_path: besides, hf://owner/name[@revision] is downloaded from the hub, or taken from its cache.
        device: "cpu", "cuda", "auto" or an onnxruntime provider's name; what is not there is an error.
        threads: for one run; None is one a core.
        spinning: let threads spin between calls too: quicker in a tight loop, at the price of CPU time.
        arena: keep freed memory for the next run.

    Raises:
        UsageError: there is no such model or device.
        CvaeError: a file is damaged, was not exported by cvae, was not exported yet, or can't be downloaded.
    """
    return Model(find(name_or_path), device=device, threads=threads, spinning=spinning, arena=arena)


class Model:
    """A decoder, and its encoder when that is asked for and lies beside it. Safe to use from several threads.

    Images are (N, C, H, W) float32 in [0, 1], an array with `to_pil()` and `save(path)`; codes and noise are (N, Z)
    float32. For a model with labels every method takes the class as `label`, by name (see `Spec.label_index`), or as
    `label_index`, by its place in `spec.classes`: one for all images, or one for each.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path
        self._options = options
        self._decoder = Session(exported_file(path, DECODER), "decoder", **options)
        self._encoder: Session | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        spec = self.spec
        labels = "no labels" if spec.classes is None else f"{len(spec.classes)} classes"
        shape = "x".join(map(str, spec.image_shape))
        return f"<cvae.Model {spec.name}: {spec.architecture}, {shape}, latent {spec.latent_dim}, {labels}>"

    @property
    def spec(self) -> Spec:
        """What the file says of itself."""
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
        """`n` new images (n, C, H, W) float32 in [0, 1].

        Args:
            label: the class, by name. A model with labels draws its classes in turn if there is no label.
            seed: repeats the same images on every machine; None draws new ones.
            temperature: the standard deviation of the noise: below 1 more typical, above 1 more varied images.
            label_index: the class by its index, in place of `label`.

        Raises:
            UsageError: the model has no such label, or n or temperature is out of range.
        """
        n = check_order(n, temperature)
        self._check_memory("n", n, "write them to files: cvae generate -n N --out images.npy")
        if label is None and label_index is None and self.spec.classes is not None:
            label_index = np.arange(n) % len(self.spec.classes)
        return self.decode(self.noise(n, seed) * np.float32(temperature), label, label_index=label_index)

    def noise(self, n: int, seed: int | None = None) -> np.ndarray:
        """Standard normal noise (n, Z) float32: the same for a seed, and the first rows the same whatever n."""
        n = check_count("n", n)
        self._check_memory("n", n, "draw them in parts")
        if seed is not None:
            seed = check_count("seed", seed, least=0)
        return np.random.default_rng(seed).standard_normal((n, self.spec.latent_dim), dtype=np.float32)

    def decode(self, noise: np.ndarray, label: Labels = None, *, label_index: Indices = None) -> Images:
        """Noise or codes (N, Z) -> images (N, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: the shape or a label does not fit the model.
            CvaeError: onnxruntime fails, or the file gives what is not an image.
        """
        noise = _array(noise, (self.spec.latent_dim,), "noise")
        images = self._decoder.run({"noise": noise} | self._labels(label, label_index, len(noise)))[0]
        low, high = float(images.min()), float(images.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise CvaeError(
                f"{str(exported_file(self._path, DECODER))!r} contradicts its own spec: it gives images with values in "
                f"{low:g}..{high:g}, not 0..1; use a file that cvae export onnx has written"
            )
        if low < 0 or high > 1:
            np.clip(images, 0, 1, out=images)
        return images.view(Images)

    def encode(
        self, images: np.ndarray, label: Labels = None, *, label_index: Indices = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, C, H, W) in [0, 1] -> mean and standard deviation (N, Z) of their codes, in the noise's space.

        Raises:
            UsageError: the shape or a label does not fit the model.
            CvaeError: there is no encoder beside the decoder, or it gives what is not a standard deviation.
        """
        images = _array(images, self.spec.image_shape, "images")
        if images.min() < 0 or images.max() > 1:
            raise UsageError(f"images hold values in {images.min():g}..{images.max():g}; scale them to 0..1")
        with self._lock:
            if self._encoder is None:
                self._encoder = Session(exported_file(self._path, ENCODER), "encoder", **self._options)
                if self._encoder.spec.weights != self.spec.weights:
                    name, self._encoder = self._encoder.spec.name, None
                    raise UsageError(
                        f"the {ENCODER} beside {self.spec.name!r} was exported from other weights, of {name!r}; "
                        f"export both again: cvae export onnx {self._path}"
                    )
        mean, std = self._encoder.run({"image": images} | self._labels(label, label_index, len(images)))
        if not (lowest := float(std.min())) > 0:
            raise CvaeError(
                f"{str(exported_file(self._path, ENCODER))!r} contradicts its own spec: it gives the standard "
                f"deviation {lowest:g}, which must be positive; use a file that cvae export onnx has written"
            )
        return mean, std

    def reconstruct(self, images: np.ndarray, label: Labels = None, *, label_index: Indices = None) -> Images:
        """Images (N, C, H, W) in [0, 1] -> what the model makes of them: decode(encode(images).mean)."""
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
        """Images (N, C, H, W) of the class `label` -> the same codes drawn as the class `to`: the style is kept.

        `label_index` and `to_index` are the same classes by their indices.
        """
        return self.decode(self.encode(images, label, label_index=label_index)[0], to, label_index=to_index)

    def nearest_label(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) -> the index (N,) of the class under which each takes the fewest nats at its code's mean.

        Those of the reconstruction alone would not do: a style that is rare for a label redraws the image well too.

        Raises:
            UsageError: the model has no labels.
        """
        if self.spec.classes is None:
            raise UsageError(f"{self.spec.name!r} was trained without labels")
        nats = []
        for index in range(len(self.spec.classes)):
            mean, std = self.encode(images, label_index=index)
            again = self.decode(mean, label_index=index)
            distortion = -log_prob(self.spec, images, again).sum(axis=(1, 2, 3))  # -> (N,)
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
        """Images (steps, C, H, W) on the way from `a` to `b`, both included.

        Args:
            a: the start: a seed (int), a code (Z,) or an image (C, H, W).
            b: the end, likewise.
            label: of both ends, or (of a, of b). Between two labels each picture is the mean of the two decodings,
                weighted by the way gone: the decoder's mean when the label is drawn with those odds.
            mode: "slerp" (on the sphere, where the prior's mass is; Shoemake 1985) or "lerp" (straight).
            label_index: of both ends, or (of a, of b), in place of `label`.

        Raises:
            UsageError: an argument is out of range or does not fit the model.
        """
        steps = check_count("steps", steps, least=2)
        self._check_memory("steps", steps, "take fewer steps")
        if mode not in ("slerp", "lerp"):
            raise UsageError(f"mode {mode!r} is neither 'slerp' nor 'lerp'")
        indices = label_indices(self.spec, label, label_index, 2, "ends")
        first, last = (None, None) if indices is None else indices.tolist()
        way = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # (steps, 1)
        codes = {"slerp": slerp, "lerp": lerp}[mode](self._code(a, first), self._code(b, last), way)
        images = self.decode(codes, label_index=first)  # (steps, C, H, W)
        if first != last:
            weight = way[:, :, None, None]  # (steps, 1) -> (steps, 1, 1, 1)
            images = ((1 - weight) * images + weight * self.decode(codes, label_index=last)).view(Images)
        return images

    def _check_memory(self, name: str, count: int, fix: str) -> None:
        """Check, before anything is allocated, that the memory of this machine holds so many images and codes."""
        each, memory = 4 * (math.prod(self.spec.image_shape) + self.spec.latent_dim), _physical_memory()
        if count * each > memory:
            raise UsageError(
                f"{name} is {quote_label(count)}: at most {memory // each:,} fit into the {memory / 2**30:.0f} GiB of "
                f"memory here; {fix}"
            )

    def _code(self, end: int | np.ndarray, index: int | None) -> np.ndarray:
        """A seed, a code or an image -> a code (Z,)."""
        if isinstance(end, int | np.integer):
            return self.noise(1, int(end))[0]
        if np.ndim(end) == 1:
            return _array(np.asarray(end)[None], (self.spec.latent_dim,), "codes")[0]
        return self.encode(np.asarray(end)[None], label_index=index)[0][0]

    def _labels(self, label: Labels, label_index: Indices, count: int) -> dict[str, np.ndarray]:
        """Return the labels as the graph's input."""
        indices = label_indices(self.spec, label, label_index, count)
        return {} if indices is None else {"label": indices}


def label_indices(
    spec: Spec, label: Labels, label_index: Indices, count: int, what: str = "images"
) -> np.ndarray | None:
    """Resolve `label`, by name, or `label_index` to the indices of the classes (count,) int64.

    None for a model without labels.

    Raises:
        UsageError: the model has no such label or index, or both or a wrong number of them are given.
    """
    values: Any = label if label_index is None else label_index
    resolve: Callable[[Any], int] = spec.label_index if label_index is None else spec.check_index
    if label is not None and label_index is not None:
        raise UsageError(
            f"label {quote_label(label)} and label_index {quote_label(label_index)} both choose the class; give one"
        )
    if values is None:
        if spec.classes is None:
            return None
        raise UsageError(f"{spec.name!r} has labels: give one of {', '.join(spec.classes[:20])}")
    try:
        dimensions = np.ndim(values)
    except ValueError:  # sequences of different lengths
        dimensions = 2
    if dimensions > 1:
        raise UsageError(f"labels {quote_label(values)} are nested; give one, or a flat sequence of {count}")
    if dimensions == 0:
        return np.full(count, resolve(values), np.int64)
    if len(values) != count:
        raise UsageError(f"{len(values)} labels for {count} {what}: give one, or one for each")
    return np.array([resolve(value) for value in values], np.int64)


def check_order(n: int, temperature: float) -> int:
    """Check what images are drawn by, and return n as an int.

    Raises:
        UsageError: n or temperature is out of range, or not a number.
    """
    n = check_count("n", n)
    if not isinstance(temperature, Real) or not 0 <= temperature <= MAX_TEMPERATURE:
        raise UsageError(f"temperature is {quote_label(temperature)}: a number in 0..{MAX_TEMPERATURE}")
    return n


def check_count(name: str, value: int, *, least: int = 1) -> int:
    """Return a whole number as an int.

    Raises:
        UsageError: it is not a whole number, or less than `least`.
    """
    try:
        number = None if isinstance(value, bool | np.bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise UsageError(f"{name} is {quote_label(value)}: give a whole number, at least {least}")
    return number


def log_prob(spec: Spec, images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """log p(x | z) of each number of images in [0, 1], given the mean of p(x | z), of the same shape.

    Where the file does not tell all of p(x | z), as under a mixture of logistics, it is the cross-entropy.
    """
    if spec.sigma is not None:
        return -0.5 * (((images - mean) / spec.sigma) ** 2 + math.log(2 * math.pi)) - math.log(spec.sigma)
    white = np.clip(mean, SMALLEST, 1 - SMALLEST)
    return images * np.log(white) + (1 - images) * np.log1p(-white)


def gaussian_kl(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """KL of normal distributions from the standard one, in nats, of each dimension: (N, Z), (N, Z) -> (N, Z)."""
    return 0.5 * (mean**2 + std**2 - 1) - np.log(std)


def _physical_memory() -> int:
    """Return the bytes of memory that this machine has, or 64 GiB where Python can't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**36


def _array(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[1:] != shape or values.ndim != len(shape) + 1 or len(values) == 0:
        raise UsageError(f"{what} of the shape {values.shape} should be (N, {', '.join(map(str, shape))})")
    if not np.isfinite(values).all():
        raise UsageError(f"{what} hold values that are not finite")
    return np.ascontiguousarray(values, dtype=np.float32)
