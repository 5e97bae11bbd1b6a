"""Decoding of image files in processes, which a file may end, stall or take over."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import load_data
from PIL import Image, ImageFile

from cvae.errors import CvaeError
from cvae.imaging import worker
from cvae.imaging.pool import DecoderPool, Job, ReadFailure, decode_here
from cvae.imaging.reader import DecodedImage
from cvae.imaging.stream import ImageStream

pytestmark = pytest.mark.integration

JOB = Job((3, 8, 8), own=True)

BROKEN_DECODERS = """
import os, signal, sys, time
from PIL import Image

intact_open = Image.open

def open_image(path, **options):
    name = os.path.basename(path)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name.startswith("exit"):
        os._exit(3)
    elif name.startswith("hang"):
        time.sleep(10_000)
    elif name.startswith("eat"):
        blocks = [bytearray(2**26) for _ in range(64)]
    elif name.startswith("forge"):
        os.write(3, b"\\xff" * 10_000)
    elif name.startswith("print"):
        os.write(1, b"text"), os.write(2, b"text")
    return intact_open(path, **options)

Image.open = open_image
"""
"""Module that Python imports at its start: decoders with bugs. File 3 is the one to which replies are written."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder of five grey images, from dark to bright."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        Image.new("L", (8, 8), 50 * i).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def broken_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(BROKEN_DECODERS)
    monkeypatch.syspath_prepend(hooks)


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [child for child in psutil.Process().children() if "cvae.imaging.worker" in " ".join(child.cmdline())] == []


def decode(folder: Path, job: Job = JOB) -> dict[str, DecodedImage | ReadFailure]:
    paths = sorted(folder.iterdir())
    with DecoderPool() as pool:
        return dict(zip([path.name for path in paths], pool.decode(paths, job), strict=True))


def add(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / "0.png").read_bytes())


@pytest.mark.parametrize("own", [True, False])
def test_processes_decode_like_this_process(folder: Path, own: bool) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp", "a.gif"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels.astype(np.uint16)[..., 0] * 10).save(folder / "12 bits.png")
    Image.new("RGB", (4200, 4200), "red").save(folder / "large.png", compress_level=1)
    (folder / "damaged.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "text.png").write_text("not an image")
    (folder / "missing.png").symlink_to(folder / "nowhere")
    if sys.platform == "linux":
        (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "a.png").read_bytes())
    for job in (Job((3, 16, 24), own), Job((1, 8, 8), own, min_bits=14)):
        decoded = decode(folder, job)
        assert isinstance(decoded["large.png"], DecodedImage) and isinstance(decoded["damaged.png"], ReadFailure)
        for name, image in decoded.items():
            expected = decode_here(folder / name, job)
            assert np.array_equal(image[0], expected[0]) and image[1:] == expected[1:]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("crash.png", "its decoder crashed (Segmentation fault)", id="crash"),
        pytest.param("exit.png", "its decoder crashed (exit status 3)", id="exit"),
        pytest.param("hang.png", "decoding it takes more than 3 seconds", id="hang"),
        pytest.param("eat.png", "out of memory", id="memory"),
        pytest.param("forge.png", "its decoder crashed (Killed)", id="forged reply"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no memory, and describe signals differently")
def test_broken_decoder_costs_one_image(
    broken_decoders: None, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    if name == "hang.png":  # on a busy machine, the others may take longer
        monkeypatch.setattr(worker, "SECONDS", 3)
    add(folder, name)
    decoded = decode(folder)
    assert decoded.pop(name) == ReadFailure(reason, transient=True)
    assert [image.pixels[0, 0, 0] for image in decoded.values() if isinstance(image, DecodedImage)] == [
        0, 50, 100, 150, 200
    ]  # fmt: skip


def test_output_of_a_decoder_is_ignored(broken_decoders: None, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    add(folder, "print.png")
    assert all(isinstance(image, DecodedImage) for image in decode(folder).values())
    assert capfd.readouterr() == ("", "")


def test_image_folder_skips_images_that_end_the_decoder(
    broken_decoders: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    for i in range(3):
        add(folder, f"crash-{i}.png")
    with pytest.warns(UserWarning, match=r"3 of 8 images .* are skipped: its decoder crashed .*: 'crash-0\.png', "):
        data = load_data(f"folder:{folder}", size=8, validation=0)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]


def test_stream_skips_images_that_end_the_decoder(broken_decoders: None, folder: Path) -> None:
    """`cvae detect score` reads images with a stream."""
    add(folder, "crash.png")
    stream = ImageStream(sorted(folder.iterdir()), (1, 8, 8), chunk=4, skip=True)
    chunks = [(indices, images.mean(axis=(1, 2, 3)) * 255) for indices, images in stream]
    assert [indices for indices, _ in chunks] == [[0, 1, 2, 3], [4]]
    np.testing.assert_allclose(np.concatenate([means for _, means in chunks]), [0, 50, 100, 150, 200], atol=1e-3)
    assert list(stream.unreadable) == [5] and stream.unreadable[5].startswith("its decoder crashed")
    np.testing.assert_allclose(stream.read([4, 1]).mean(axis=(1, 2, 3)) * 255, [200, 50], atol=1e-3)
    with pytest.raises(CvaeError, match=r"can't read '.*crash\.png' as an image: its decoder crashed"):
        stream.read([5])


def test_pool_can_be_closed_while_it_decodes(broken_decoders: None, folder: Path) -> None:
    for i in range(20):
        add(folder, f"hang-{i}.png")
    paths = sorted(folder.iterdir())
    with DecoderPool() as pool:
        assert isinstance(next(pool.decode(paths, JOB)), DecodedImage)


def test_process_decodes_images_that_are_cut_off_if_the_program_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "cut.png").write_bytes((folder / "4.png").read_bytes()[:-20])
    assert isinstance(decode(folder)["cut.png"], ReadFailure)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert isinstance(decode(folder)["cut.png"], DecodedImage)


@pytest.mark.parametrize(("program", "message"), [("/nowhere/python", "can't start"), ("/bin/true", "did not start")])
def test_program_that_is_not_python_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(CvaeError, match=f"^'?.*{program}.*$") as caught:
        decode(folder)
    assert message in str(caught.value)


def test_script_without_a_guard_runs_once(folder: Path, tmp_path: Path) -> None:
    """A process must not import the script of the user, nor a module of the current folder."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported a module of the current folder')")
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from cvae.config import TrainConfig\n"
        "from cvae.data import load_dataset\n"
        "print(len(load_dataset(TrainConfig(data='folder:images', validation=0)).train))\n"
    )
    environment = os.environ | {"CVAE_DATA_DIR": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("5\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on CPU time")
def test_cpu_time_of_a_process_is_limited() -> None:
    """A process whose program was killed ends by itself."""
    code = "from cvae.imaging import worker; worker._limit_time(0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXCPU
