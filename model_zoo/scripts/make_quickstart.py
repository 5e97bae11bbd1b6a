"""Make the images of docs/quickstart.md by running the commands on that page in an empty folder.

    python model_zoo/scripts/make_quickstart.py

The current working directory must contain `photos/`, a folder of images with a subfolder per class.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, IMAGES = DOCS / "quickstart.md", DOCS / "quickstart"

FONT_SIZE, MARGIN = 20, 24
BACKGROUND, TEXT, PROMPT = "#16181d", "#d7dae0", "#7fd1b9"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    photos = Path("photos").resolve()
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("cvae ")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").symlink_to(photos)
        screens = [run(command, Path(folder)) for command in commands]
        draw_terminal(screens[0]).save(IMAGES / "terminal.png", optimize=True)
        for name in re.findall(r"\]\(quickstart/(\S+\.png)\)", PAGE.read_text("utf-8")):
            if name != "terminal.png":  # for example, mnist-samples.png is a copy of samples.png
                source = next(Path(folder).rglob(name.partition("-")[2] if "-" in name else name))
                shutil.copy(source, IMAGES / name)


def run(command: str, folder: Path) -> str:
    """Run a command, and return the text that a terminal would show: the command and its output."""
    print("$", command, flush=True)
    arguments = [sys.executable, "-m", *command.split()]
    result = subprocess.run(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, end="", flush=True)
    result.check_returncode()
    return f"$ {command}\n{result.stdout}"


def draw_terminal(screen: str) -> Image.Image:
    """Draw the text of a terminal, in a monospaced font on a dark background."""
    font = ImageFont.truetype(findfont("DejaVu Sans Mono"), FONT_SIZE)
    lines = screen.expandtabs().splitlines()
    line_height = FONT_SIZE * 13 // 10
    width = round(max(font.getlength(line) for line in lines))
    image = Image.new("RGB", (width + 2 * MARGIN, line_height * len(lines) + 2 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + i * line_height), line, PROMPT if i == 0 else TEXT, font)
    return image.quantize(32)


if __name__ == "__main__":
    main()
