"""Image files and GIFs, image grids, and interpolation of latent codes.

Imports neither torch nor onnxruntime.
"""

from cvae.imaging.arrays import error_maps, to_pil, to_uint8
from cvae.imaging.grids import enlarge, grid, magnify, stack, strip
from cvae.imaging.interpolation import lerp, slerp
from cvae.imaging.reader import convert, read
from cvae.imaging.writer import check_extension, save, save_gif

__all__ = [
    "check_extension",
    "convert",
    "enlarge",
    "error_maps",
    "grid",
    "lerp",
    "magnify",
    "read",
    "save",
    "save_gif",
    "slerp",
    "stack",
    "strip",
    "to_pil",
    "to_uint8",
]
