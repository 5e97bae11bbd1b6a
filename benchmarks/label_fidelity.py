"""Are generated digits the digits that were asked for? Judged by a classifier trained on real MNIST.

    python benchmarks/label_fidelity.py MODEL [--data-dir DIR] [--per-class 100] [--seed 0] [--temperature 1]

MODEL is anything that `cvae generate` takes. The classifier is trained first (a minute or two on 2 cores) and kept
under runs/ in the working folder; it must reach 99 % on the real test images, or the figure would mean nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import cvae
from cvae.config import TrainConfig
from cvae.data import Split, load_dataset

CLASSIFIER = Path("runs/mnist-classifier.safetensors")


def network() -> nn.Module:
    """Two convolutions, two fully connected layers: 99.2 to 99.4 % on MNIST."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10),
    )  # fmt: skip


def train(split: Split, epochs: int = 6) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    batch = 128
    steps = len(images) // batch
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            dy, dx = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(images[index].float() / 255, (dy, dx), (2, 3))  # MNIST's margin is wider than 2 pixels
            loss = nn.functional.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"classifier epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Images (N, 1, 28, 28) in [0, 1] -> classes (N,)."""
    return torch.cat([model(part).argmax(1) for part in torch.from_numpy(images).split(500)]).numpy()


def classifier(data_dir: str | None) -> tuple[nn.Module, float]:
    """The classifier, trained if need be, and its accuracy on the real test images."""
    dataset = load_dataset(TrainConfig(data="mnist", data_dir=data_dir, validation=0.0))
    if CLASSIFIER.exists():
        model = network()
        model.load_state_dict(load_file(CLASSIFIER))
        model.eval()
    else:
        model = train(dataset.train)
        CLASSIFIER.parent.mkdir(exist_ok=True)
        save_file(model.state_dict(), CLASSIFIER)
    test = dataset.test
    accuracy = float((predict(model, test.images.astype(np.float32) / 255) == test.labels).mean())
    if accuracy < 0.99:
        raise SystemExit(
            f"the classifier reaches only {accuracy:.2%} on real images; delete {CLASSIFIER} and try again"
        )
    return model, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data-dir")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()

    judge, accuracy = classifier(args.data_dir)
    model = cvae.load(args.model)
    asked = np.repeat(np.arange(10), args.per_class)
    images = model.generate(len(asked), asked, args.seed, args.temperature)
    right = predict(judge, images) == asked
    print(f"classifier on real test images: {accuracy:.2%}")
    print(f"{model.spec.name}: {right.mean():.2%} of {len(asked)} are the digit asked for (seed {args.seed})")
    print("by digit:", ", ".join(f"{d}: {right[asked == d].mean():.0%}" for d in range(10)))


if __name__ == "__main__":
    main()
