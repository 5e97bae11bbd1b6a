"""Arrays that a model returns: images and codes."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class Images(np.ndarray):
    """Array of images (N, C, H, W), or one image (C, H, W), float32 in [0, 1], that can be displayed and saved.

    Several images are displayed as a grid. A notebook displays the array if it is the last value of a cell. Slices
    are `Images` too. Results of computations are plain arrays.

    Attributes:
        labels: Class name of each image; None if the model has no labels, or if any image is between two classes.
        seed: Seed of the noise; None if the images were not generated from a seed.
        columns: Number of columns of the grid; None for about as many columns as rows. Slices don't keep this number.
    """

    labels: list[str] | None = None
    seed: int | None = None
    columns: int | None = None

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, key: Any) -> Any:
        """Return a slice. It has the labels of its images if the key selects along the first axis."""
        result = super().__getitem__(key)
        if isinstance(result, Images):
            result.seed = self.seed
            if self.labels is not None and self.ndim == 4 and result.shape[-3:] == self.shape[1:]:
                if isinstance(key, int):  # iteration must not convert all labels for each image
                    result.labels = [self.labels[key]]
                else:
                    names = np.array(self.labels, object)[key[:1] if isinstance(key, tuple) else key]
                    result.labels = [names] if isinstance(names, str) else names.tolist()
        return result

    def __reduce__(self) -> Any:
        """Keep the attributes when the array is pickled, for example to return it from another process."""
        function, arguments, state = tuple(super().__reduce__())
        return function, arguments, (state, self.labels, self.seed, self.columns)

    def __setstate__(self, state: Any) -> None:
        array_state, self.labels, self.seed, self.columns = state
        super().__setstate__(array_state)

    def to_pil(self) -> "Image.Image":
        """Return a Pillow image: the image itself, or a grid of several.

        Raises:
            UsageError: If the array does not have the shape of images, for example because it is a slice of an image.
        """
        from cvae import imaging

        array = np.asarray(self)
        if array.ndim == 4 and array.shape[1] in (1, 3):
            return imaging.grid(array, self.columns)
        return imaging.to_pil(array)

    def save(self, path: str | Path, scale: int | None = None) -> None:
        """Save the image or grid atomically, in the format of the path's suffix.

        Args:
            path: File to write.
            scale: Factor by which the image is enlarged; 1 keeps the pixels of the model. By default, a small image is
                enlarged to at least 280 pixels, as on the command line.

        Raises:
            UsageError: If the format is unknown, `scale` is not a positive integer, or the array does not have the
                shape of images.
            CvaeError: If the file can't be written.
        """
        from cvae import imaging

        imaging.save(imaging.enlarge(self.to_pil(), scale), path)

    def to_png(self, scale: int | None = None) -> bytes:
        """Return the image or grid as the bytes of a PNG file, enlarged like the file that `save` writes."""
        from cvae import imaging

        file = io.BytesIO()
        imaging.enlarge(self.to_pil(), scale).save(file, "PNG")
        return file.getvalue()

    def data_url(self, scale: int | None = None) -> str:
        """Return the PNG file of `to_png` as a data URL, for the `src` of an HTML `img`."""
        return f"data:image/png;base64,{base64.b64encode(self.to_png(scale)).decode()}"

    def _repr_png_(self) -> bytes | None:
        """Return the PNG file that a notebook displays, or None if the array does not have the shape of images."""
        return self.to_png() if self.size and self.ndim in (3, 4) and self.shape[-3] in (1, 3) else None


def as_images(
    array: np.ndarray,
    labels: Sequence[str] | None = None,
    seed: int | None = None,
    columns: int | None = None,
) -> Images:
    """Return a view of an array (N, C, H, W) with its labels, its seed, and the columns of its grid."""
    images = np.asarray(array).view(Images)
    images.labels = None if labels is None else list(labels)
    images.seed = seed
    images.columns = columns
    return images


class _MeanAndStd(NamedTuple):
    mean: np.ndarray
    std: np.ndarray


class Codes(_MeanAndStd):
    """Mean and standard deviation of the codes of images, (N, Z) each: `mean, std = model.encode(images)`.

    Attributes:
        labels: Names of the classes under which the images were encoded; None for a model without labels.
    """

    labels: list[str] | None = None
