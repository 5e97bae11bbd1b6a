"""Time to a good model: seconds from the start of a process to a saved model whose test loss meets a target.

    python benchmarks/time_to_quality.py [--against NAME|all] [--example PATH/vae/main.py] [--data-dir DIR]
        [--rounds N] [--plot CHART.png] [--json] [--smoke]

    pytorch-example  The `main.py` of PyTorch's VAE example (https://github.com/pytorch/examples/tree/main/vae), MLP
                     784-400-20, ten epochs, with cross-entropy. The target is a fixed loss.
    pythae-mlp       TrainingPipeline of pythae 0.1.2 with its default MLP 784-512-16, cut to 20 of its 100 epochs, with
                     half the squared error. The target is the lowest loss of the peer's own runs.
    pythae-resnet    The same with pythae's ResNet for MNIST, cut to 5 epochs. Our side trains the MLP for longer,
                     because it reaches that loss sooner than a ResNet.

The rules:

- The peer is unmodified, with its own settings for MNIST. Our side is `cvae train --recipe NAME`, which also evaluates
  and exports the model. For an MLP, the recipe trains the peer's network.
- The clock covers the complete process, including imports and reading the data. It stands still while the weights of
  the peer are saved for the comparison.
- Both sides run in turn, A B A B, with the seed of their round.
- The loss per image is that of the peer: reconstruction loss plus KL divergence, at one sample per image, for the test
  images of MNIST. The same code computes it for both sides, outside the clock.
- Every run of ours has to meet the target; otherwise the exit status is 1.

Without --example, or without pythae (`pip install pythae==0.1.2`), only our side is measured.
"""

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _timing import data_root, format_range, make_parser, parse_args, ratios, report, run_rounds
from safetensors.torch import load_file
from torch import Tensor

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine import load_model
from cvae.models import VAE

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, 1, 28, 28) -> mean and standard deviation of q(z | x), (B, Z) each."""

Decode = Callable[[Tensor], Tensor]
"""Latents (B, Z) with a standard normal prior -> images (B, 1, 28, 28) in [0, 1]."""


class Result(NamedTuple):
    """A finished run: seconds since the start of the process and test loss in nats, at the end of each epoch."""

    seconds: list[float]
    losses: list[float]


class Comparison(NamedTuple):
    """A peer, and the recipe that has to reach its loss sooner."""

    recipe: list[str]  # name of the recipe, and further flags
    train_peer: Callable[[Namespace, int], Result]
    reconstruction_loss: Callable[[Tensor, Tensor], Tensor]
    rounds: int
    target: float | None  # test loss in nats; if None, the lowest loss of the peer's runs


def main() -> None:
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=None)
    parser.add_argument("--against", choices=[*COMPARISONS, "all"], default="all", help="Peer to compare with.")
    parser.add_argument("--example", type=Path, metavar="PATH", help="main.py of PyTorch's VAE example.")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="Image file for a chart of loss against time.")
    args = parse_args(parser, rounds=1)
    names = list(COMPARISONS) if args.against == "all" else [args.against]
    results = {name: compare(name, args) for name in names}
    table = [("", "", "complete process, s", "test loss, nats", "runs that meet the target")]
    notes, is_met, metrics = [], True, {}
    for name, sides in results.items():
        target = find_target(name, sides)
        for side, runs in sides.items():
            seconds, losses = ([getattr(run, field)[-1] for run in runs] for field in Result._fields)
            met = sum(target is not None and loss <= target for loss in losses)
            is_met = is_met and (side != "cvae" or target is None or met == len(runs))
            count = "" if target is None else f"{met} of {len(runs)} (at most {target:.2f})"
            table.append((name, side, format_range(seconds, 1), format_range(losses, 2), count))
        metrics[name] = {side: [run._asdict() for run in runs] for side, runs in sides.items()} | {"target": target}
        if "peer" in sides:
            speedups = ratios(*([run.seconds[-1] for run in sides[side]] for side in ("peer", "cvae")))
            notes.append(f"{name}: {format_range(speedups, 1)} times as fast (target 10, stretch target 20)")
    report(args.json, metrics, table, notes)
    if args.plot:
        plot_losses(results, args.plot)
    sys.exit(0 if is_met or args.smoke else 1)


def compare(name: str, args: Namespace) -> dict[str, list[Result]]:
    """Train both sides in turn, and return the runs by side."""
    comparison = COMPARISONS[name]
    has_peer = args.example is not None if name == "pytorch-example" else find_spec("pythae") is not None
    seeds = {"peer": 0, "cvae": 0}

    def train_next(side: str) -> Result:
        seeds[side] += 1
        return comparison.train_peer(args, seeds[side]) if side == "peer" else train_with_cvae(name, args, seeds[side])

    sides = {side: lambda side=side: train_next(side) for side in ("peer", "cvae") if has_peer or side == "cvae"}
    return run_rounds(args.rounds or comparison.rounds, **sides)


def find_target(name: str, sides: dict[str, list[Result]]) -> float | None:
    """Return the test loss that our runs have to meet, in nats."""
    return COMPARISONS[name].target or min((run.losses[-1] for run in sides.get("peer", [])), default=None)


# -- our side --------------------------------------------------------------------------------------------------------


def train_with_cvae(name: str, args: Namespace, seed: int) -> Result:
    """Train the recipe of a comparison in a new process."""
    comparison = COMPARISONS[name]
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "cvae", "train", "--recipe", *comparison.recipe, "--seed", str(seed)]
        command += ["--data-dir", str(data_root(args.data_dir)), "--out", str(run)]
        command += ["--limit", "2000"] if args.smoke else []
        start = time.time()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.time() - start
        model: VAE = load_model(run)[0]
        return to_result([(seconds, model.encode, model.decode)], name, args)


# -- peers -----------------------------------------------------------------------------------------------------------


def train_example(args: Namespace, seed: int) -> Result:
    """Run PyTorch's example in a new process, in a folder as it expects it."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "vae" / "results").mkdir(parents=True)
        (Path(folder) / "data").symlink_to(data_root(args.data_dir).resolve())
        flags = [str(args.example.resolve()), "--seed", str(seed), *(["--epochs", "1"] if args.smoke else [])]
        runs = record("pytorch_example", flags, Path(folder) / "vae")
    networks = [(seconds, *example_network(weights)) for seconds, weights in runs]
    return to_result(networks, "pytorch-example", args)


def example_network(weights: dict[str, Tensor]) -> tuple[Encode, Decode]:
    """Return the network of PyTorch's example with these weights."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = layer("fc1", images.flatten(1)).relu()
        return layer("fc21", hidden), torch.exp(0.5 * layer("fc22", hidden))

    def decode(latents: Tensor) -> Tensor:
        return layer("fc4", layer("fc3", latents).relu()).sigmoid().unflatten(1, (1, 28, 28))

    return encode, decode


def train_with_pythae(kind: str, epochs: int, args: Namespace, seed: int) -> Result:
    """Train pythae's MLP or ResNet in a new process."""
    with TemporaryDirectory() as folder:
        images = load_dataset(TrainConfig(data="mnist", data_dir=args.data_dir)).train.images
        np.save(Path(folder) / "images.npy", images[:1200] if args.smoke else images)
        runs = record("pythae_training", [kind, "images.npy", str(epochs), str(seed)], Path(folder))
    networks = [(seconds, *pythae_network(kind, weights)) for seconds, weights in runs]
    return to_result(networks, f"pythae-{kind}", args)


def pythae_network(kind: str, weights: dict[str, Tensor]) -> tuple[Encode, Decode]:
    """Return pythae's MLP or ResNet with these weights."""
    from _peers.pythae_training import create_model

    model = create_model(kind).eval()
    model.load_state_dict(weights)

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(images)
        return output["embedding"], torch.exp(0.5 * output["log_covariance"])

    def decode(latents: Tensor) -> Tensor:
        return model.decoder(latents)["reconstruction"].reshape(-1, 1, 28, 28)

    return encode, decode


def record(program: str, flags: list[str], cwd: Path) -> list[tuple[float, dict[str, Tensor]]]:
    """Run a program of `_peers` in a new process; return the seconds and the weights of every epoch."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"_peers.{program}", str(time.time()), folder, *flags]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True)
        return [(float(path.stem), load_file(path)) for path in sorted(Path(folder).iterdir())]


# -- the loss --------------------------------------------------------------------------------------------------------


def to_result(networks: list[tuple[float, Encode, Decode]], name: str, args: Namespace) -> Result:
    """Measure the test loss of networks, each of which comes with the seconds since the start of its process."""
    test = load_dataset(TrainConfig(data="mnist", data_dir=args.data_dir)).test
    assert test is not None
    images = torch.from_numpy(test.images).float() / 255
    loss = COMPARISONS[name].reconstruction_loss
    losses = [measure_loss(encode, decode, loss, images) for _, encode, decode in networks]
    return Result([seconds for seconds, *_ in networks], losses)


def measure_loss(
    encode: Encode, decode: Decode, reconstruction_loss: Callable[[Tensor, Tensor], Tensor], images: Tensor
) -> float:
    """Return the mean loss of a model for images (N, 1, 28, 28) in [0, 1], in nats per image."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    with torch.inference_mode():
        for pixels in images.split(1000):
            mean, std = encode(pixels)
            noise = torch.randn(mean.shape, generator=generator)
            losses.append(reconstruction_loss(decode(mean + std * noise), pixels) + normal_kl(mean, std))
    return float(torch.cat(losses).mean())


def normal_kl(mean: Tensor, std: Tensor) -> Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)) of latents (B, Z), in nats per image (B,)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)


def cross_entropy(images: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy(images, targets, reduction="none").flatten(1).sum(1)


def half_squared_error(images: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (images - targets).square().flatten(1).sum(1)


# -- the chart -------------------------------------------------------------------------------------------------------


def plot_losses(results: dict[str, dict[str, list[Result]]], path: Path) -> None:
    """Plot the test loss against the time, in a panel per comparison, and save the chart."""
    from cvae.plots.style import OKABE_ITO, Figure, save

    figure = Figure(figsize=(4.2 * len(results), 3.4), layout="constrained")
    for axes, (name, sides) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for colour, (side, runs) in zip((OKABE_ITO[0], OKABE_ITO[3]), sides.items(), strict=False):
            for i, run in enumerate(runs):
                label = (name if side == "peer" else f"cvae, {COMPARISONS[name].recipe[0]}") if i == 0 else None
                axes.plot(run.seconds, run.losses, marker="o", markersize=4, color=colour, label=label)
        target = find_target(name, sides)
        if target is not None:
            axes.axhline(target, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds of the complete process")
        axes.set_ylabel("test loss, nats")
        axes.legend(frameon=False)
    save(figure, path)


COMPARISONS = {
    "pytorch-example": Comparison(["speedrun-mlp"], train_example, cross_entropy, rounds=3, target=105.6),
    "pythae-mlp": Comparison(
        ["speedrun-mlp-mse"], partial(train_with_pythae, "mlp", 20), half_squared_error, rounds=2, target=None
    ),
    "pythae-resnet": Comparison(
        ["speedrun-mlp-mse", "--epochs", "4"],
        partial(train_with_pythae, "resnet", 5),
        half_squared_error,
        rounds=1,
        target=None,
    ),
}


if __name__ == "__main__":
    main()
