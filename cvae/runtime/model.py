"""Exported model that generates, encodes and interpolates images with onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cvae.condition_rows import feed
from cvae.conditions import Condition, single_category
from cvae.errors import CvaeError, UsageError
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
    random_seed,
)
from cvae.runtime.array import Codes, Images, as_images
from cvae.runtime.conditions import collect_values, condition_rows, count_values, describe_rows, replace_values
from cvae.runtime.inference import explain
from cvae.runtime.inputs import ImagesLike, to_batch
from cvae.runtime.interpolate import interpolate
from cvae.runtime.session import Session, open_encoder
from cvae.runtime.weights import check_weights, hash_file
from cvae.spec import Spec

ROUNDING = 0.01
"""Tolerance for values outside 0..1, which are clipped: more than any rounding error, less than 3 grey levels."""


class Model:
    """Exported decoder, and the encoder in the same folder, which is loaded on first use. Thread-safe.

    Methods return arrays (N, C, H, W) float32 in [0, 1] with the attributes `labels` and `seed` and the methods
    `to_pil()` and `save(path)`. They accept image files, Pillow images and arrays of uint8 or floats, one or many (see
    `cvae.runtime.inputs.ImagesLike`). Codes and noise are (N, Z) float32.

    If the model has labels, every method takes the class either as `label`, by name (see `Condition.index`), or as
    `label_index`, by its index in `classes`: one for all images, or one for each. Other conditions (see `conditions`)
    are keyword arguments with their names, such as `age=40, smiling=True`: one value for all images, or one for each. A
    condition that is left out is unknown. An image is encoded under the values that explain it best, unless they are
    given. With `extrapolate=True`, numbers beyond the range of the training data are accepted.

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
        labels = ", ".join(f"{c.name}: {c.describe()}" for c in spec.conditions) or "no labels"
        labels = labels if spec.classes is None else f"{len(spec.classes)} classes"
        shape = "x".join(map(str, spec.image_shape))
        return f"<cvae.Model {spec.name}: {spec.architecture}, {shape}, latent {spec.latent_dim}, {labels}>"

    def __reduce__(self) -> Any:
        """Pickle the path, the options and the hash of the decoder's file.

        Raises:
            CvaeError: If the file has changed since the model was loaded.
        """
        from cvae.runtime.loading import unpickle

        file = exported_file(self._path, DECODER)
        digest = hash_file(file)
        if digest is None or file.stat().st_mtime_ns != self._mtime:
            raise CvaeError(f"{str(file)!r} has changed since the model was loaded; load it again before you pickle it")
        return unpickle, (self._path, self._options, digest)

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
    def conditions(self) -> dict[str, Condition]:
        """Conditions of the model by name. A model with classes has a single condition, a category."""
        return {condition.name: condition for condition in self.spec.conditions}

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
        extrapolate: bool = False,
        **conditions: Any,
    ) -> Images:
        """Generate images.

        Example:
            `model.generate(16, age=40, smiling=True)` generates 16 images under these conditions.

        Args:
            n: Number of images. By default one, or one for each label or value of a condition.
            label: Name of the class, or one for each image: `label=[1, 2, 3]` gives one image of each. By default, the
                images cycle through the classes.
            seed: Seed of the noise; random by default. The same seed gives the same images on every machine.
            temperature: Standard deviation of the noise. Values below 1 give more typical images, values above 1 more
                varied ones.
            label_index: Index of the class, or one for each image, instead of `label`.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of other conditions by name. A condition that is left out is unknown.

        Returns:
            Images (n, C, H, W) float32 in [0, 1], with the attributes `labels` and `seed`.

        Raises:
            UsageError: If the model has no such label or condition, or n or temperature is out of range.
        """
        values = collect_values(self.spec, label, label_index, conditions)
        if n is None:
            n = count_values(self.spec, values) or count_labels(label, label_index)
        n = check_generate_args(n, temperature)
        check_memory(self.spec, "n", n, "write them to files: cvae generate -n N --out images.npy")
        category = single_category(self.spec.conditions)
        if category is not None and not category.optional and not values and label_index is None:
            label_index = np.arange(n) % len(category.values)
        seed = random_seed() if seed is None else seed
        noise = self.noise(n, seed) * np.float32(temperature)
        images = self.decode(noise, label, label_index=label_index, extrapolate=extrapolate, **conditions)
        images.seed = int(seed)
        return images

    def noise(self, n: int, seed: int | None = None) -> np.ndarray:
        """Return standard normal noise (n, Z) float32. For the same seed, a larger n only appends rows."""
        n = check_count("n", n)
        check_memory(self.spec, "n", n, "draw them in several calls")
        if seed is not None:
            seed = check_count("seed", seed, minimum=0)
        return np.random.default_rng(seed).standard_normal((n, self.spec.latent_dim), dtype=np.float32)

    def decode(
        self,
        noise: np.ndarray,
        label: "Labels" = None,
        *,
        label_index: "Indices" = None,
        extrapolate: bool = False,
        **conditions: Any,
    ) -> Images:
        """Decode noise or codes.

        Args:
            noise: Noise or codes (N, Z).
            label: Name of the class, or one for each image.
            label_index: Index of the class, or one for each image, instead of `label`.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of other conditions by name. A condition that is left out is unknown.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].

        Raises:
            UsageError: If a label, a condition or the shape of the noise does not fit the model.
            CvaeError: If onnxruntime fails, or the decoder returns values that are not in [0, 1].
        """
        noise = check_array(noise, (self.spec.latent_dim,), "noise")
        rows = condition_rows(self.spec, len(noise), label, label_index, conditions, extrapolate=extrapolate)
        return self.decode_rows(noise, rows)

    def decode_rows(self, noise: np.ndarray, rows: np.ndarray | None) -> Images:
        """Decode noise or codes (N, Z) under the conditions in rows (see `cvae.condition_rows`), or None."""
        noise = check_array(noise, (self.spec.latent_dim,), "noise")
        images = self._decoder.run({"noise": noise, **feed(self.spec.conditions, rows)})[0]
        low, high = float(images.min()), float(images.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise CvaeError(
                f"{str(exported_file(self._path, DECODER))!r} contradicts its own spec: it returns images with values "
                f"in {low:g}..{high:g}, not 0..1; use a file written by cvae export onnx"
            )
        if low < 0 or high > 1:
            np.clip(images, 0, 1, out=images)
        return as_images(images, self._names(rows))

    def encode(
        self,
        images: "ImagesLike",
        label: "Labels" = None,
        *,
        label_index: "Indices" = None,
        extrapolate: bool = False,
        **conditions: Any,
    ) -> Codes:
        """Encode images into noise space.

        Args:
            images: One or more images.
            label: Name of the class, or one for each image; by default the class that explains the image best.
            label_index: Index of the class, or one for each image, instead of `label`.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of other conditions by name; by default those that explain the image best.

        Returns:
            Mean (N, Z) and standard deviation (N, Z) of the codes, with the attribute `labels`.

        Raises:
            UsageError: If a label, a condition or the shape of an image does not fit the model.
            CvaeError: If an image can't be read, there is no encoder in the decoder's folder, or the encoder returns an
                invalid standard deviation.
        """
        batch = to_batch(images, self.spec.image_shape)
        values = collect_values(self.spec, label, label_index, conditions)
        return self.encode_rows(batch, explain(self, batch, values, label_index, extrapolate=extrapolate))

    def encode_rows(self, batch: np.ndarray, rows: np.ndarray | None) -> Codes:
        """Encode images (N, C, H, W) in [0, 1] under the conditions in rows (see `cvae.condition_rows`), or None."""
        with self._lock:
            if self._encoder is None:
                self._encoder = open_encoder(self._path, self.spec, **self._options)
        mean, std = self._encoder.run({"image": batch, **feed(self.spec.conditions, rows)})
        if not (lowest := float(std.min())) > 0:
            raise CvaeError(
                f"{str(exported_file(self._path, ENCODER))!r} contradicts its own spec: it returns the standard "
                f"deviation {lowest:g}, which must be positive; use a file written by cvae export onnx"
            )
        codes = Codes(mean, std)
        codes.labels = self._names(rows)
        return codes

    def infer(self, images: "ImagesLike", *, extrapolate: bool = False, **conditions: Any) -> list[dict[str, Any]]:
        """Infer the conditions that explain images best.

        Args:
            images: One or more images.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of conditions that are known.

        Returns:
            The values of all conditions of each image, by name.

        Raises:
            UsageError: If the model has no conditions, or a value or the shape of an image does not fit the model.
        """
        if not self.spec.conditions:
            raise UsageError(f"{self.spec.name!r} was trained without conditions")
        batch = to_batch(images, self.spec.image_shape)
        rows = explain(self, batch, collect_values(self.spec, None, None, conditions), extrapolate=extrapolate)
        return describe_rows(self.spec.conditions, rows)

    def reconstruct(
        self,
        images: "ImagesLike",
        label: "Labels" = None,
        *,
        label_index: "Indices" = None,
        extrapolate: bool = False,
        **conditions: Any,
    ) -> Images:
        """Reconstruct images from the means of their codes.

        Args:
            images: One or more images.
            label: Name of the class, or one for each image; by default the class that explains the image best (see
                the attribute `labels` of the result).
            label_index: Index of the class, or one for each image, instead of `label`.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of other conditions by name; by default those that explain the image best.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].
        """
        batch = to_batch(images, self.spec.image_shape)
        values = collect_values(self.spec, label, label_index, conditions)
        rows = explain(self, batch, values, label_index, extrapolate=extrapolate)
        return self.decode_rows(self.encode_rows(batch, rows).mean, rows)

    def restyle(
        self,
        images: "ImagesLike",
        label: "Labels" = None,
        to: "Labels" = None,
        *,
        label_index: "Indices" = None,
        to_index: "Indices" = None,
        known: Mapping[str, Any] | None = None,
        extrapolate: bool = False,
        **conditions: Any,
    ) -> Images:
        """Change conditions of images but not their style, by decoding their codes under other conditions.

        Example:
            `model.restyle("photo.png", smiling=True)` changes one condition and keeps the others.

        Args:
            images: One or more images.
            label: Name of the class of the images, or one for each image; by default the class that explains the image
                best.
            to: Name of the class to change them to, or one for each image.
            label_index: Index of the class of the images, instead of `label`.
            to_index: Index of the class to change them to, instead of `to`.
            known: Values of the images' own conditions by name; by default those that explain the image best.
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: New values of other conditions by name.

        Returns:
            Images (N, C, H, W) float32 in [0, 1].
        """
        batch = to_batch(images, self.spec.image_shape)
        targets = collect_values(self.spec, to, to_index, conditions)
        values = collect_values(self.spec, label, label_index, known or {})
        rows = explain(self, batch, values, label_index, extrapolate=extrapolate)
        new_rows = replace_values(self.spec, rows, targets, to_index, count=len(batch), extrapolate=extrapolate)
        return self.decode_rows(self.encode_rows(batch, rows).mean, new_rows)

    def nearest_label(self, images: "ImagesLike") -> np.ndarray:
        """Return the indices (N,) of the classes that explain images best.

        Raises:
            UsageError: If the model has no labels.
        """
        if self.spec.classes is None:
            raise UsageError(f"{self.spec.name!r} was trained without labels")
        rows = explain(self, to_batch(images, self.spec.image_shape), {})
        assert rows is not None
        return rows

    def interpolate(
        self,
        a: "int | ImagesLike",
        b: "int | ImagesLike",
        steps: int = 10,
        label: Label | tuple[Label, Label] | None = None,
        mode: str = "slerp",
        *,
        label_index: int | tuple[int, int] | None = None,
        extrapolate: bool = False,
        **conditions: Any,
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
            extrapolate: Accept numbers beyond the range of the training data.
            conditions: Values of other conditions by name, each one value or a pair. A number passes through all values
                between the two of a pair. Other conditions change as classes do.

        Returns:
            Images (steps, C, H, W) float32 in [0, 1]. Their `labels` are None between two classes.

        Raises:
            UsageError: If an argument is out of range or does not fit the model, or neither end has a class.
        """
        values = collect_values(self.spec, label, label_index, conditions)
        return interpolate(self, a, b, steps, mode, values, label_index, extrapolate=extrapolate)

    def _names(self, rows: np.ndarray | None) -> list[str] | None:
        """Return the names of classes, or None for a model without classes or for a class that is unknown."""
        classes = self.spec.classes
        if rows is None or classes is None or (rows == len(classes)).any():
            return None
        return [classes[i] for i in rows]
