"""Reading and writing of image files, grids and GIFs, and interpolation of latent codes.

Imports neither torch nor onnxruntime.
"""

from cvae.imaging.arrays import error_maps, to_pil, to_uint8
from cvae.imaging.grids import enlarge, grid, magnify, strip
from cvae.imaging.interpolation import lerp, slerp
from cvae.imaging.reader import read
from cvae.imaging.stream import ImageStream, read_set
from cvae.imaging.writer import save, save_gif

__all__ = [
    "ImageStream",
    "enlarge",
    "error_maps",
    "grid",
    "lerp",
    "magnify",
    "read",
    "read_set",
    "save",
    "save_gif",
    "slerp",
    "strip",
    "to_pil",
    "to_uint8",
]
