"""Commands in docs/gallery.md, run with the bundled digits instead of MNIST, and with drawings of cars.

The runs are shorter than on the page, and their networks are smaller.
"""

import re
import shlex
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import code_blocks, load_data
from PIL import Image, ImageDraw, ImageSequence

pytestmark = pytest.mark.integration

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gallery.md"
SECTIONS = dict(re.findall(r"## (.*)\n((?:(?!## ).*\n)*)", PAGE.read_text()))
SMALL_GRID = [
    "--epochs", "3", "--batch-size", "8", "--lr", "5e-3", "--set", "arch.width=4", "--set", "arch.max_width=8",
]  # fmt: skip
SMALL_PRIOR = ["--set", "prior.hidden=8", "--set", "prior.blocks=1"]
SHORT_RUN_FLAGS = {
    "classic-mnist-resnet": ["--epochs", "3", "--set", "arch.width=4"],
    "classic-mnist-conv": ["--epochs", "96", "--limit", "60", "--set", "arch.width=4", "--set", "arch.hidden=16"],
    "classic-mnist-mlp": ["--epochs", "3"],
    "classic-cars-mse": ["--epochs", "30", "--set", "arch.width=4", "--set", "arch.hidden=64", "--lr", "5e-3"],
    "classic-cars-bce": ["--epochs", "30", "--set", "arch.width=4", "--set", "arch.hidden=64", "--lr", "5e-3"],
    "cars-grid-base": SMALL_GRID,
    "cars-grid-prior": [*SMALL_GRID, *SMALL_PRIOR],
    "cars-grid": [*SMALL_GRID, *SMALL_PRIOR],
}


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for block in code_blocks(text, "bash") for line in block.splitlines()]


def write_mnist(raw: Path) -> None:
    """Write the bundled digits in the format of MNIST."""
    digits = load_data("digits", size=28)
    raw.mkdir(parents=True)
    for name, split in {"train": digits.train, "t10k": digits.test}.items():
        images = split.images[:][:300, 0]  # (N, 1, 28, 28) -> (N, 28, 28)
        header = np.array([0x803, *images.shape], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = split.labels[:300].astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, len(labels)], ">i4").tobytes() + labels.tobytes()
        )


def draw_car(path: Path, seed: int) -> None:
    """Write an image of a car: a box on two wheels, in a random colour."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (96, 64), tuple(map(int, random.integers(150, 255, 3))))
    draw = ImageDraw.Draw(image)
    body = tuple(map(int, random.integers(0, 200, 3)))
    draw.rectangle((10, 28, 86, 48), fill=body)
    draw.rectangle((int(random.integers(18, 34)), 16, int(random.integers(60, 80)), 30), fill=body)
    for x in (22, 66):
        draw.ellipse((x, 40, x + 14, 54), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def home(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder with the data that the page requires: MNIST, and car images named as on the page."""
    write_mnist(in_tmp / "data" / "MNIST" / "raw")
    named = re.findall(r"cars/test/\S+\.jpg", PAGE.read_text())
    body_types = sorted({Path(name).parent.name for name in named})
    files = [*named, *(f"cars/train/{body_type}/{i}.jpg" for body_type in body_types for i in range(12))]
    files += [f"cars/test/{body_type}/{i}.jpg" for body_type in body_types for i in range(8)]
    for seed, file in enumerate(files):
        draw_car(in_tmp / file, seed)
    monkeypatch.setenv("CVAE_DATA_DIR", str(in_tmp / "data"))
    return in_tmp


def split_grid(grid: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    """Return the images in a grid, without the gaps."""
    height, width = (grid.shape[0] + rows) // rows, (grid.shape[1] + columns) // columns
    return [
        grid[y * height : (y + 1) * height - height // 10, x * width : (x + 1) * width - width // 10]
        for y in range(rows)
        for x in range(columns)
    ]


def check_image(arguments: list[str], report: dict[str, Any], path: Path) -> None:
    """Check that an image shows what its command reports."""
    if "--epochs" in arguments:
        assert report["epochs"] == [int(epoch) for epoch in arguments[arguments.index("--epochs") + 1].split(",")]
    with Image.open(path) as image:
        if path.suffix == ".gif":
            frames = [np.asarray(frame.convert("L")).astype(int) for frame in ImageSequence.Iterator(image)]
            num_frames = (1 + arguments.count("--via")) * 9
            assert len(frames) in (num_frames, num_frames + 1), (len(frames), num_frames)
            assert any((frame != frames[0]).any() for frame in frames), "all frames are equal"
            return
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) >= 40 and pixels.std() > 2, "the image is small or blank"
    if arguments[1] == "generate":
        per_label, count = int(arguments[arguments.index("-n") + 1]), report["images"]
        columns = per_label if per_label < count else int(np.ceil(np.sqrt(count)))  # with labels, a row for each label
        panels = split_grid(pixels, int(np.ceil(count / columns)), columns)[:count]
        assert all(panel.std() > 0 for panel in panels), "a panel is blank"
        assert any(np.abs(panels[0].astype(int) - panel).mean() > 1 for panel in panels[1:]), "all panels are equal"
    elif arguments[1] == "restyle":
        _, *restyled = split_grid(pixels, 1, 1 + len(report["to"]))
        assert all((a != b).any() for a, b in combinations(restyled, 2)), "the images of two classes are equal"
    elif arguments[1] == "interpolate":
        panels = split_grid(pixels, 1, int(arguments[arguments.index("--steps") + 1]) if "--steps" in arguments else 10)
        distances = [np.abs(panels[0].astype(int) - panel).mean() for panel in panels]
        assert 0 < distances[1] < distances[-1], "the images do not change along the interpolation"
    else:
        assert arguments[1] == "plot" and (pixels == pixels.max()).mean() > 0.05, (
            "it is not a figure on a white background"
        )


@pytest.mark.parametrize(
    "section",
    [name if "mnist-mlp" in text else pytest.param(name, marks=pytest.mark.slow) for name, text in SECTIONS.items()],
)
def test_gallery_commands_create_the_images_on_the_page(section, home, cvae):
    images_written = []
    for arguments in commands(SECTIONS[section]):
        short_run_flags = SHORT_RUN_FLAGS[arguments[arguments.index("--recipe") + 1]] if arguments[1] == "train" else []
        report = cvae(*arguments[1:], *short_run_flags, "--json").json
        if "--out" in arguments:
            images_written.append(arguments[arguments.index("--out") + 1])
            check_image(arguments, report, home / images_written[-1])
    assert images_written == re.findall(r"\]\(gallery/(\S+)\)", SECTIONS[section])
