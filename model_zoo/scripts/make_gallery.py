"""Make the pictures of docs/gallery.md by running the commands that stand on it, in their order.

    python model_zoo/scripts/make_gallery.py [--only classic-mnist-mlp]

Trainings are resumed, or passed over when they are done, so that a stopped gallery goes on. The cars lie in `cars/`, or
where a link of that name leads; MNIST is downloaded, or where CVAE_DATA_DIR says.
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
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "gallery"


def commands(page: str) -> list[list[str]]:
    """The words of each command on the page."""
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def settings(training: TrainConfig) -> dict[str, Any]:
    """All that a training says of itself, but for where its data are and what runs it."""
    flags = to_dict(training)
    options = flags.pop("options")
    for name in ("data", "data_dir", "device", "precision", "compile", "trackers"):
        flags.pop(name)
    return flags | {f"{part}.{key}": value for part, of in options.items() for key, value in of.items()}


def train(words: list[str]) -> list[str] | None:
    """The command that trains as `words` say: one begun before is continued, for one that is done there is none."""
    flags = {flag[2:].replace("-", "_"): value for flag, value in zip(words[2::2], words[3::2], strict=True)}
    name = flags.pop("recipe")
    run = Path("runs") / name
    if not is_run(run):
        return words
    numbers = {flag: int(value) for flag, value in flags.items()}
    asked = settings(from_dict(TrainConfig, {**read_recipe(model_zoo.recipe(name)), **numbers}))
    trained = settings(read_config(run).training)
    if others := {key: trained.get(key) for key, value in asked.items() if value not in (None, trained.get(key))}:
        sys.exit(f"{run} was trained otherwise, with {others}: remove it")
    done = (run / METRICS).exists() and "test" in read_metrics(run)[-1]
    return None if done else ["cvae", "train", "--resume", "--out", str(run)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the commands in which this word stands")
    only = parser.parse_args().only
    for words in commands(PAGE.read_text()):
        if only is not None and not any(only in word for word in words):
            continue
        if words[1] == "train":
            if (training := train(words)) is None:
                continue
            words = training
        print("$", shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", *words], check=True)
        if "--out" in words and words[1] != "train":
            picture = Path(words[words.index("--out") + 1])
            PICTURES.mkdir(exist_ok=True)
            shutil.move(picture, PICTURES / picture.name)


if __name__ == "__main__":
    main()
