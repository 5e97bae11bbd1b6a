"""Exported model that generates, encodes and interpolates images with onnxruntime."""

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
    count_labels,
    label_indices,
    random_seed,
)
from cvae.runtime.array import Codes, Images, as_images
from cvae.runtime.density import gaussian_kl, log_prob
from cvae.runtime.find import find
from cvae.runtime.inputs import ImagesLike, to_batch
from cvae.runtime.session import Session
from cvae.runtime.weights import check_weights, hash_file
from cvae.spec import Spec

ROUNDING = 0.01
"""Tolerance for values outside 0..1, which are clipped: more than any rounding error, less than 3 grey levels."""


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    spinning: bool = False,
    arena: bool = False,
    time_limit: float | None = None,
) -> "Model":
    """Load an exported model.

    Args:
        name_or_path: A run folder, the file of a decoder, the name of a run under `runs/` or of a zoo model, or
            hf://owner/name[@revision], which is downloaded from the hub. None loads the zoo's default model.
        device: "cpu", "cuda", "auto" or the name of an onnxruntime provider. An unavailable device is an error.
        threads: Number of threads that one call uses; one per core by default.
        spinning: Let the threads spin between calls, which is faster in a tight loop but uses CPU time.
        arena: Keep freed memory for the next call.
        time_limit: Maximum number of seconds for loading an untrusted file, and for each call of a method.

    Returns:
        The model.

    Raises:
        UsageError: If there is no such model or device, or the weights of the run differ from those that its decoder
            was exported from.
        CvaeError: If a file is damaged, was not exported by cvae, has not been exported yet, or can't be downloaded.
    """
    options = {"threads": threads, "spinning": spinning, "arena": arena, "time_limit": time_limit}
    return Model(find(name_or_path), device=device, **options)


class Model:
    """Exported decoder, and the encoder in the same folder, which is loaded on first use. Thread-safe.

    Methods return arrays (N, C, H, W) float32 in [0, 1] with the attributes `labels` and `seed` and the methods
    `to_pil()` and `save(path)`. They accept image files, Pillow images and arrays of uint8 or floats, one or many (see
    `cvae.runtime.inputs.ImagesLike`). Codes and noise are (N, Z) float32.

    If the model has labels, every method takes the class either as `label`, by name (see `Spec.label_index`), or as
    `label_index`, by its index in `classes`: one for all images, or one for each. Without a class, an image is encoded
    under the class that explains it best.

    A model can be pickled, for example for a pool of processes. The pickle holds the path and the hash of the file, not
    the weights.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path.absolute()  # the program may change its working directory
        self._options = options
        self._mtime = (file := exported_file(path, DECODER)).stat().st_mtime_ns
        self._decoder = Session(file, "decoder", **options)
        check_weights(path, self.spec)
        self._encoder: Session | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        spec = self.spec
        labels = "no labels" if spec.classes is None else f"{len(spec.classes)} classes"
        shape = "x".join(map(str, spec.image_shape))
        return f"<cvae.Model {spec.name}: {spec.architecture}, {shape}, latent {spec.latent_dim}, {labels}>"

    def __reduce__(self) -> Any:
        """Pickle the path, the options and the hash of the decoder's file.

        Raises:
            CvaeError: If the file has changed since the model was loaded.
        """
        file = exported_file(self._path, DECODER)
        digest = hash_file(file)
        if digest is None or file.stat().st_mtime_ns != self._mtime:
            raise CvaeError(f"{str(file)!r} has changed since the model was loaded; load it again before you pickle it")
        return _unpickle, (self._path, self._options, digest)

    @property
    def path(self) -> Path:
        """Folder or file that the model was loaded from."""
        return self._path

    @property
    def spec(self) -> Spec:
        """Spec of the model, as embedded in the decoder."""
        return self._decoder.spec

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, or None for a model without labels."""
        return self.spec.classes

    @property
    def latent_dim(self) -> int:
        """Dimension Z of the latent space."""
        return self.spec.latent_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.spec.image_shape

    def generate(
        self,
        n: int | None = None,
        label: "Labels" = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        label_index: "Indices" = None,
    ) -> Images:
        """Generate images.

        Args:
            n: Number of images. By default one, or one for each label.
            label: Name of the class, or one for each image: `label=[1, 2, 3]` gives one image of each. By default, the
                images cycle through the classes.
            seed: Seed of the noise; random by default. The same seed gives the same images on every machine.
            temperature: Standard deviation of the noise. Values below 1 give more typical images, values above 1 more
                varied ones.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Images (n, C, H, W) float32 in [0, 1], with the attributes `labels` and `seed`.

        Raises:
            UsageError: If the model has no such label, or n or temperature is out of range.
        """
        n = check_generate_args(count_labels(label, label_index) if n is None else n, temperature)
        check_memory(self.spec, "n", n, "write them to files: cvae generate -n N --out images.npy")
        if label is None and label_index is None and self.spec.classes is not None:
            label_index = np.arange(n) % len(self.spec.classes)
        seed = random_seed() if seed is None else seed
        images = self.decode(self.noise(n, seed) * np.float32(temperature), label, label_index=label_index)
        images.seed = int(seed)
        return images

    def noise(self, n: int, seed: int | None = None) -> np.ndarray:
        """Return standard normal noise (n, Z) float32. For the same seed, a larger n only appends rows."""
        n = check_count("n", n)
        check_memory(self.spec, "n", n, "draw them in several calls")
        if seed is not None:
            seed = check_count("seed", seed, minimum=0)
        return np.random.default_rng(seed).standard_normal((n, self.spec.latent_dim), dtype=np.float32)

    def decode(self, noise: np.ndarray, label: "Labels" = None, *, label_index: "Indices" = None) -> Images:
        """Decode noise or codes.

        Args:
            noise: Noise or codes (N, Z).
            label: Name of the class, or one for each image.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: If a label or the shape of the noise does not fit the model.
            CvaeError: If onnxruntime fails, or the decoder returns values that are not in [0, 1].
        """
        noise = check_array(noise, (self.spec.latent_dim,), "noise")
        indices = label_indices(self.spec, label, label_index, len(noise))
        images = self._decoder.run(_feed("noise", noise, indices))[0]
        low, high = float(images.min()), float(images.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise CvaeError(
                f"{str(exported_file(self._path, DECODER))!r} contradicts its own spec: it returns images with values "
                f"in {low:g}..{high:g}, not 0..1; use a file written by cvae export onnx"
            )
        if low < 0 or high > 1:
            np.clip(images, 0, 1, out=images)
        return as_images(images, self._names(indices))

    def encode(self, images: "ImagesLike", label: "Labels" = None, *, label_index: "Indices" = None) -> Codes:
        """Encode images into noise space.

        Args:
            images: One or more images.
            label: Name of the class, or one for each image; by default the class that explains the image best.
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Mean (N, Z) and standard deviation (N, Z) of the codes, with the attribute `labels`.

        Raises:
            UsageError: If a label or the shape of an image does not fit the model.
            CvaeError: If an image can't be read, there is no encoder in the decoder's folder, or the encoder returns an
                invalid standard deviation.
        """
        batch = to_batch(images, self.spec.image_shape)
        return self._encode(batch, self._explain(batch, label, label_index))

    def _explain(self, batch: np.ndarray, label: Labels, label_index: Indices) -> np.ndarray | None:
        """Return class indices (N,) like `label_indices`; by default, those from `nearest_label`."""
        if label is None and label_index is None and self.spec.classes is not None:
            return self.nearest_label(batch)
        return label_indices(self.spec, label, label_index, len(batch))

    def _encode(self, batch: np.ndarray, indices: np.ndarray | None) -> Codes:
        """Encode images (N, C, H, W) in [0, 1] under the classes with these indices (N,)."""
        with self._lock:
            if self._encoder is None:
                self._encoder = Session(exported_file(self._path, ENCODER), "encoder", **self._options)
                if self._encoder.spec.weights != self.spec.weights:
                    name, self._encoder = self._encoder.spec.name, None
                    raise UsageError(
                        f"the {ENCODER} in the folder of {self.spec.name!r} was exported from different weights, those "
                        f"of {name!r}; export both again: cvae export onnx {self._path}"
                    )
        mean, std = self._encoder.run(_feed("image", batch, indices))
        if not (lowest := float(std.min())) > 0:
            raise CvaeError(
                f"{str(exported_file(self._path, ENCODER))!r} contradicts its own spec: it returns the standard "
                f"deviation {lowest:g}, which must be positive; use a file written by cvae export onnx"
            )
        codes = Codes(mean, std)
        codes.labels = self._names(indices)
        return codes

    def reconstruct(self, images: "ImagesLike", label: "Labels" = None, *, label_index: "Indices" = None) -> Images:
        """Reconstruct images from the means of their codes.

        Args:
            images: One or more images.
            label: Name of the class, or one for each image; by default the class that explains the image best (see
                the attribute `labels` of the result).
            label_index: Index of the class, or one for each image, instead of `label`.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].
        """
        batch = to_batch(images, self.spec.image_shape)
        indices = self._explain(batch, label, label_index)
        return self.decode(self._encode(batch, indices).mean, label_index=indices)

    def restyle(
        self,
        images: "ImagesLike",
        label: "Labels" = None,
        to: "Labels" = None,
        *,
        label_index: "Indices" = None,
        to_index: "Indices" = None,
    ) -> Images:
        """Change the class of images but not their style, by decoding their codes with another label.

        Args:
            images: One or more images.
            label: Name of the class of the images, or one for each image; by default the class that explains the image
                best.
            to: Name of the class to change them to, or one for each image.
            label_index: Index of the class of the images, instead of `label`.
            to_index: Index of the class to change them to, instead of `to`.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].
        """
        return self.decode(self.encode(images, label, label_index=label_index).mean, to, label_index=to_index)

    def nearest_label(self, images: "ImagesLike") -> np.ndarray:
        """Return the indices (N,) of the classes that explain the images best.

        The best class is the one with the lowest negative bound in nats, evaluated at the mean of the code. The
        distortion alone is not enough, because even a wrong class can reconstruct an image well from an unlikely code.

        Raises:
            UsageError: If the model has no labels.
        """
        if self.spec.classes is None:
            raise UsageError(f"{self.spec.name!r} was trained without labels")
        batch, nats = to_batch(images, self.spec.image_shape), []
        for index in range(len(self.spec.classes)):
            mean, std = self._encode(batch, np.full(len(batch), index))
            reconstruction = self.decode(mean, label_index=index)
            distortion = -log_prob(self.spec, batch, reconstruction).sum(axis=(1, 2, 3))  # -> (N,)
            nats.append(distortion + gaussian_kl(mean, std).sum(1))  # (N, Z) -> (N,)
        return np.argmin(nats, axis=0)

    def interpolate(
        self,
        a: "int | ImagesLike",
        b: "int | ImagesLike",
        steps: int = 10,
        label: Label | tuple[Label, Label] | None = None,
        mode: str = "slerp",
        *,
        label_index: int | tuple[int, int] | None = None,
    ) -> Images:
        """Interpolate between two codes.

        Args:
            a: Start: a seed (int), a code (Z,) or an image.
            b: End, like `a`.
            steps: Number of images, including the start and the end.
            label: Name of the class, or a pair for the start and the end. Between two classes, each image is the mean
                of its two decodings, weighted by position. By default, an image has the class that explains it best,
                and a seed or code has the class of the other end.
            mode: "slerp" (along the sphere, where the mass of the prior is; Shoemake 1985) or "lerp" (straight).
            label_index: Index of the class, or a pair, instead of `label`.

        Returns:
            Images (steps, C, H, W) float32 in [0, 1]. Their `labels` are None between two classes.

        Raises:
            UsageError: If an argument is out of range or does not fit the model, or neither end has a class.
        """
        steps = check_count("steps", steps, minimum=2)
        check_memory(self.spec, "steps", steps, "take fewer steps")
        if mode not in ("slerp", "lerp"):
            raise UsageError(f"mode {mode!r} is neither 'slerp' nor 'lerp'")
        start, end = self._read_end(a), self._read_end(b)
        if label is None and label_index is None:
            label_index = self._explain_ends(start, end)
        indices = label_indices(self.spec, label, label_index, 2, "ends")
        first, last = (None, None) if indices is None else indices.tolist()
        positions = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # (steps, 1)
        codes = {"slerp": slerp, "lerp": lerp}[mode](self._code(start, first), self._code(end, last), positions)
        images = self.decode(codes, label_index=first)  # (steps, C, H, W)
        if first != last:
            weight = positions[:, :, None, None]  # (steps, 1) -> (steps, 1, 1, 1)
            images = as_images((1 - weight) * images + weight * self.decode(codes, label_index=last))
        images.columns = len(images)  # one row
        return images

    def _read_end(self, end: int | ImagesLike) -> np.ndarray:
        """Return the code (Z,) or the image (1, C, H, W) of an end of an interpolation."""
        if isinstance(end, int | np.integer):
            return self.noise(1, int(end))[0]
        if np.ndim(end) == 1:  # type: ignore[arg-type]
            return check_array(np.asarray(end)[None], (self.spec.latent_dim,), "codes")[0]
        batch = to_batch(end, self.spec.image_shape)
        if len(batch) > 1:
            raise UsageError(f"{len(batch)} images are given as one end of an interpolation; give one image")
        return batch

    def _explain_ends(self, start: np.ndarray, end: np.ndarray) -> tuple[int, int] | None:
        """Return the class indices that explain the images best; a code has the class of the other end."""
        if self.spec.classes is None or (start.ndim == 1 and end.ndim == 1):
            return None
        first, last = (None if stop.ndim == 1 else int(self.nearest_label(stop)[0]) for stop in (start, end))
        known = last if first is None else first
        assert known is not None
        return (known if first is None else first), (known if last is None else last)

    def _code(self, end: np.ndarray, index: int | None) -> np.ndarray:
        """Return the code (Z,) of an end of an interpolation."""
        return end if end.ndim == 1 else self._encode(end, None if index is None else np.array([index])).mean[0]

    def _names(self, indices: np.ndarray | None) -> list[str] | None:
        """Return the names of classes, or None for a model without labels."""
        return None if indices is None or self.spec.classes is None else [self.spec.classes[i] for i in indices]


def _feed(name: str, values: np.ndarray, indices: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the inputs of a graph, keyed by name."""
    return {name: values} if indices is None else {name: values, "label": indices}


def _unpickle(path: Path, options: dict[str, Any], digest: str) -> Model:
    """Load a pickled model.

    Raises:
        CvaeError: If the decoder's file is missing, or has changed since the model was pickled.
    """
    file = exported_file(path, DECODER)
    if hash_file(file) != digest:
        raise CvaeError(f"{str(file)!r} has changed since the model was pickled; load it again with cvae.load")
    return Model(path, **options)
