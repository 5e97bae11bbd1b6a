"""Make the images of docs/gallery.md by running the commands on that page in order.

    python model_zoo/scripts/make_gallery.py [--only classic-mnist-mlp]

The script resumes incomplete runs and skips complete ones, so it can be interrupted and restarted. The car images must
be in `cars/`, which can be a symbolic link. MNIST is downloaded, or read from CVAE_DATA_DIR.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cvae import model_zoo
from cvae.config import TrainConfig
from cvae.recipes import read_recipe
from cvae.run import METRICS, is_run, read_config, read_metrics
from cvae.serialization import from_dict, to_dict

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, IMAGES = DOCS / "gallery.md", DOCS / "gallery"


def read_commands(page: str) -> list[list[str]]:
    """Return the arguments of each command on the page."""
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def collect_settings(training: TrainConfig) -> dict[str, Any]:
    """Return the settings that affect the result. The hardware and the location of the data are left out."""
    flags = to_dict(training)
    options = flags.pop("options")
    for name in ("data", "data_dir", "device", "precision", "compile", "trackers"):
        flags.pop(name)
    return flags | {f"{part}.{key}": value for part, values in options.items() for key, value in values.items()}


def make_train_command(command: list[str]) -> list[str] | None:
    """Return the command that starts or resumes a run, or None if the run is complete."""
    flags = {flag[2:].replace("-", "_"): value for flag, value in zip(command[2::2], command[3::2], strict=True)}
    name = flags.pop("recipe")
    run = Path("runs") / name
    if not is_run(run):
        return command
    numbers = {flag: int(value) for flag, value in flags.items()}
    expected = collect_settings(from_dict(TrainConfig, {**read_recipe(model_zoo.recipe(name)), **numbers}))
    trained = collect_settings(read_config(run).training)
    if different := {key: trained.get(key) for key, value in expected.items() if value not in (None, trained.get(key))}:
        sys.exit(f"{run} was trained with different settings, {different}; remove the run")
    complete = (run / METRICS).exists() and "test" in read_metrics(run)[-1]
    return None if complete else ["cvae", "train", "--resume", "--out", str(run)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="Run only the commands that contain this text.")
    only = parser.parse_args().only
    for command in read_commands(PAGE.read_text()):
        if only is not None and not any(only in argument for argument in command):
            continue
        if command[1] == "train":
            if (train_command := make_train_command(command)) is None:
                continue
            command = train_command
        print("$", shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        if "--out" in command and command[1] != "train":
            image = Path(command[command.index("--out") + 1])
            IMAGES.mkdir(exist_ok=True)
            shutil.move(image, IMAGES / image.name)


if __name__ == "__main__":
    main()
