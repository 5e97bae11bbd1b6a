"""Make the pictures of docs/gallery.md by running the commands that stand on it, in their order.

    python benchmarks/make_gallery.py [--only classic-mnist-mlp]

Trainings are resumed, or passed over when they are done, so that a stopped gallery goes on. The cars lie in `cars/`, or
where a link of that name leads; MNIST is downloaded, or where CVAE_DATA_DIR says.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "gallery"


def commands(page: str) -> list[list[str]]:
    """The words of each command on the page."""
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def started(words: list[str]) -> list[str]:
    """A training that was begun before is continued."""
    run = Path("runs") / words[words.index("--recipe") + 1]
    return ["cvae", "train", "--resume", "--out", str(run)] if (run / "config.json").exists() else words


def finished(words: list[str]) -> bool:
    metrics = Path("runs") / words[words.index("--recipe") + 1] / "metrics.jsonl"
    return metrics.exists() and "test" in json.loads(metrics.read_text().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the commands in which this word stands")
    only = parser.parse_args().only
    for words in commands(PAGE.read_text()):
        if only is not None and not any(only in word for word in words):
            continue
        if words[1] == "train":
            if finished(words):
                continue
            words = started(words)
        print("$", shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", *words], check=True)
        if "--out" in words and words[1] != "train":
            picture = Path(words[words.index("--out") + 1])
            PICTURES.mkdir(exist_ok=True)
            shutil.move(picture, PICTURES / picture.name)


if __name__ == "__main__":
    main()
