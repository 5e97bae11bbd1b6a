"""The array of images that a model returns."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class Images(np.ndarray):
    """Array of images (N, C, H, W), or one image (C, H, W), float32 in [0, 1], that can be displayed and saved.

    Several images are displayed as a grid. A notebook displays the array if it is the last value of a cell. Slices
    have this type too. Results of computations are plain arrays.
    """

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def to_pil(self) -> "Image.Image":
        """Return a Pillow image: the image itself, or a grid of several.

        Raises:
            UsageError: If the array does not have the shape of images, for example a slice of an image.
        """
        from cvae import imaging

        array = np.asarray(self)
        return imaging.grid(array) if array.ndim == 4 and array.shape[1] in (1, 3) else imaging.to_pil(array)

    def save(self, path: str | Path) -> None:
        """Save the image or grid atomically, in the format of the path's suffix.

        Raises:
            UsageError: If the format is unknown, or the array does not have the shape of images.
            CvaeError: If the file can't be written.
        """
        from cvae import imaging

        imaging.save(self.to_pil(), path)

    def to_png(self) -> bytes:
        """Return the image or grid as the bytes of a PNG file."""
        file = io.BytesIO()
        self.to_pil().save(file, "PNG")
        return file.getvalue()

    def data_url(self) -> str:
        """Return the image or grid as a data URL, for the `src` of an HTML `img`."""
        return f"data:image/png;base64,{base64.b64encode(self.to_png()).decode()}"

    def _repr_png_(self) -> bytes | None:
        """Return the PNG file that a notebook displays, or None if the array does not have the shape of images."""
        return self.to_png() if self.size and self.ndim in (3, 4) and self.shape[-3] in (1, 3) else None
