"""Stand-in for pillow-heif. Its "HEIC" files consist of the first bytes of a HEIC file and a PNG file."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageFile

HEAD = b"\0\0\0\x0cftypheic"


def write_heic(path: Path, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, "PNG")
    path.write_bytes(HEAD + content.getvalue())


class StubImageFile(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self) -> None:
        self.image = Image.open(io.BytesIO(self.fp.read()[len(HEAD) :]), formats=("PNG",))
        self._size, self._mode = self.image.size, self.image.mode

    def load(self) -> object:
        self.im = self.image.convert(self.mode).im
        return self.im.pixel_access(self.readonly)


@contextmanager
def install_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the stand-in, and remove its format from Pillow at the end."""

    def register_heif_opener() -> None:
        Image.register_open("HEIF", StubImageFile, lambda prefix: prefix[4:12] == HEAD[4:])

    module = ModuleType("pillow_heif")
    vars(module)["register_heif_opener"] = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    yield
    if Image.OPEN.pop("HEIF", None):
        Image.ID.remove("HEIF")


def uninstall_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
