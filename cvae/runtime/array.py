"""Images as an array that can also be shown."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class Images(np.ndarray):
    """Images (N, C, H, W), or one (C, H, W), float32 in [0, 1]: an array like any other, and a picture of itself.

    Several are shown as a grid. A notebook shows them when they are a cell's last value. What is cut out of them is of
    this type too, what is computed from them a plain array.
    """

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def to_pil(self) -> "Image.Image":
        """A Pillow image: of one image its own pixels, of several a grid.

        Raises:
            UsageError: this is a part or a result of another shape, which is no image.
        """
        from cvae import imaging

        array = np.asarray(self)
        return imaging.grid(array) if array.ndim == 4 and array.shape[1] in (1, 3) else imaging.to_pil(array)

    def save(self, path: str | Path) -> None:
        """Save the picture in the format of the path's ending, whole or not at all.

        Raises:
            UsageError: no such format is known, or this is no image.
            CvaeError: the file can't be written.
        """
        from cvae import imaging

        imaging.save(self.to_pil(), path)

    def to_png(self) -> bytes:
        """The picture as a PNG file's bytes."""
        file = io.BytesIO()
        self.to_pil().save(file, "PNG")
        return file.getvalue()

    def data_url(self) -> str:
        """The picture as a URL that holds it, for the `src` of an `img` on a page."""
        return f"data:image/png;base64,{base64.b64encode(self.to_png()).decode()}"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows; nothing for parts and results that are no images."""
        return self.to_png() if self.size and self.ndim in (3, 4) and self.shape[-3] in (1, 3) else None
