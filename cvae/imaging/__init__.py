"""Images: read and write files, make grids and GIFs, interpolate between codes. Torch-free, onnxruntime-free."""

from cvae.imaging.arrays import error_maps, to_pil, to_uint8
from cvae.imaging.grids import grid, legible, strip
from cvae.imaging.interpolation import lerp, slerp
from cvae.imaging.reader import read, read_set
from cvae.imaging.writer import save, save_gif

__all__ = [
    "error_maps",
    "grid",
    "legible",
    "lerp",
    "read",
    "read_set",
    "save",
    "save_gif",
    "slerp",
    "strip",
    "to_pil",
    "to_uint8",
]
