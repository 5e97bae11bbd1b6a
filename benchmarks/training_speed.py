"""Training speed of cvae and of other packages in images per second, with the same networks, batches and images.

    python benchmarks/training_speed.py --against pytorch-example|pythae-mlp|pythae-resnet|plain-loop|all
        [--device cuda|cpu] [--data-dir DIR] [--rounds 5] [--images N] [--epochs 2] [--batch-size 128] [--compile]
        [--json] [--smoke]

    pytorch-example  The training loop of https://github.com/pytorch/examples/tree/main/vae, over a DataLoader of
                     torchvision's MNIST with ToTensor. It reads the loss in every step. MLP 784-400-20, fp32, CPU.
    pythae-mlp       BaseTrainer of pythae 0.1.2 with its default MLP (784-512-10), fp32, CPU.
    pythae-resnet    BaseTrainer of pythae with its MNIST ResNet, CPU. cvae trains the same layers, as a plug-in, at
                     --precision auto.
    plain-loop       The network of `cvae train` in a plain loop over a DataLoader, with the loss read in every step:
                     `mlp` in fp32, `resnet` under the autocast of --precision auto. On CUDA, the DataLoader has 4
                     workers and pinned memory. With --device cpu, --images 2560 shortens the ResNet's epochs.

pythae must be installed separately: `pip install pythae==0.1.2`.

Each side trains for complete epochs, including data loading: one warm-up epoch, then --epochs timed epochs. Imports,
reading the data set, and the work after an epoch (checkpoints, sample images, evaluation, a copy of the best model) are
not timed. Each measurement runs in its own process, and the sides take turns, A B A B. The engine reports
`images_per_second`; a clock on the optimizer steps checks this value. --smoke compares only pytorch-example.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _timing import (
    data_root,
    format_range,
    make_parser,
    parse_args,
    ratios,
    report,
    run_in_subprocess,
    run_rounds,
    train,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine.resolve import choose_precision, configure
from cvae.models import build
from cvae.registry import ARCHITECTURES

PeerResult = tuple[float, int]
"""Images per second, and number of parameters."""


def time_epochs(epoch: Callable[[], Any], images: int, epochs: int) -> float:
    """Return the median images per second over `epochs` epochs, after one warm-up epoch."""
    seconds = []
    for _ in range(1 + epochs):
        start = time.perf_counter()
        epoch()  # reads the loss of the last step, so the device has finished
        seconds.append(time.perf_counter() - start)
    return images / statistics.median(seconds[1:])


# -- plain loops -----------------------------------------------------------------------------------------------------


class ExampleVAE(nn.Module):
    """The MLP 784-400-20 of PyTorch's example. Its output is the loss: cross-entropy plus KL, summed over a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(784, 400), nn.Linear(20, 400)
        self.mean, self.log_var = nn.Linear(400, 20), nn.Linear(400, 20)
        self.pixels = nn.Linear(400, 784)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        image = image.view(-1, 784)  # (B, 1, 28, 28) -> (B, 784)
        hidden = F.relu(self.encoder(image))
        mean, log_var = self.mean(hidden), self.log_var(hidden)  # (B, 20) each
        latent = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        pixels = torch.sigmoid(self.pixels(F.relu(self.decoder(latent))))
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return F.binary_cross_entropy(pixels, image, reduction="sum") + kl


class BoundVAE(nn.Module):
    """A network of cvae, wrapped for a plain loop: its output is the loss."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.vae = build(configure(config, load_dataset(config)).model)
        self.conditional = config.conditional

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        terms = self.vae(image, label if self.conditional else None)
        return (terms.distortion + terms.rate.sum(1)).mean()


def train_in_plain_loop(config: TrainConfig, images: int, epochs: int, use_example: bool) -> PeerResult:
    """Train a network of cvae, or with `use_example` the network of PyTorch's example, in a plain loop."""
    from torchvision import datasets, transforms

    device = config.device
    data = datasets.MNIST(data_root(config.data_dir), download=True, transform=transforms.ToTensor())
    data.data, data.targets = data.data[:images], data.targets[:images]
    options: dict[str, Any] = {"num_workers": 4, "pin_memory": True} if device == "cuda" else {}
    loader = DataLoader(data, batch_size=config.batch_size, shuffle=True, **options)
    model = (ExampleVAE() if use_example else BoundVAE(config)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    bf16 = choose_precision(config.precision, device) == "bf16"

    def epoch() -> float:
        model.train()
        total = 0.0
        for image, label in loader:
            image, label = image.to(device, non_blocking=True), label.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = model(image, label)
            loss.backward()
            total += loss.item()
            optimizer.step()
        return total

    speed = time_epochs(epoch, images, epochs)
    return speed, sum(parameter.numel() for parameter in model.parameters())


# -- pythae ----------------------------------------------------------------------------------------------------------


def train_with_pythae(config: TrainConfig, images: int, epochs: int, resnet: bool) -> PeerResult:
    """Train with BaseTrainer, with default settings except for the batch size and the device, and discard its output.

    Only `BaseTrainer.train_step`, which runs one epoch over the DataLoader, is timed. The rest of `BaseTrainer.train`,
    which copies the best model after each epoch and saves the last model, is not timed.
    """
    seconds = []
    with (
        TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as null,
        redirect_stdout(null),
        redirect_stderr(null),
    ):
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        class TimedTrainer(BaseTrainer):
            def train_step(self, epoch: int) -> float:
                start = time.perf_counter()
                loss = super().train_step(epoch)
                seconds.append(time.perf_counter() - start)
                return loss

        split = load_dataset(config).train
        pixels, labels = torch.from_numpy(split.images).float() / 255, torch.from_numpy(split.labels)
        vae_config = VAEConfig(input_dim=(1, 28, 28), latent_dim=config.latent_dim)
        networks = (Encoder_ResNet_VAE_MNIST(vae_config), Decoder_ResNet_AE_MNIST(vae_config)) if resnet else ()
        model = VAE(vae_config, *networks)
        trainer_config = BaseTrainerConfig(
            output_dir=folder, num_epochs=1 + epochs, per_device_train_batch_size=config.batch_size, no_cuda=True
        )
        TimedTrainer(model, BaseDataset(pixels, labels), training_config=trainer_config).train()
    return images / statistics.median(seconds[1:]), sum(parameter.numel() for parameter in model.parameters())


class Residual(nn.Module):
    """A residual block: features + conv1x1(relu(conv3x3(relu(features)))). conv3x3 maps 128 channels to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv2d(128, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 128, 1))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class Unconditional(nn.Module):
    """Encoder or decoder that ignores the label. With `split`, the output is split into mean and log-variance."""

    def __init__(self, split: bool, *layers: nn.Module) -> None:
        super().__init__()
        self.split, self.layers = split, nn.Sequential(*layers)

    def forward(self, features: Tensor, label: Tensor | None) -> Any:
        out = self.layers(features)
        return out.chunk(2, dim=1) if self.split else out


def pythae_resnet(
    image_shape: tuple[int, int, int], latent_dim: int, param_channels: int, conditioning: object
) -> tuple[nn.Module, nn.Module]:
    """Build the layers of pythae's Encoder_ResNet_VAE_MNIST and Decoder_ResNet_AE_MNIST for images (1, 28, 28)."""
    down = (nn.Conv2d(1, 64, 4, 2, 1), nn.Conv2d(64, 128, 4, 2, 1), nn.Conv2d(128, 128, 3, 2, 1))  # sides 14, 7, 4
    up = (nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, param_channels, 3, 2, 1, 1))
    encoder = Unconditional(True, *down, Residual(), Residual(), nn.Flatten(), nn.Linear(2048, 2 * latent_dim))
    stem = (nn.Linear(latent_dim, 2048), nn.Unflatten(1, (128, 4, 4)), nn.ConvTranspose2d(128, 128, 3, 2, 1))
    return encoder, Unconditional(False, *stem, Residual(), Residual(), nn.ReLU(), *up)  # sides 4, 7, 14, 28


# -- comparisons -----------------------------------------------------------------------------------------------------


def train_with_cvae(config: TrainConfig) -> Any:
    if config.arch == "pythae-resnet":
        ARCHITECTURES.register("pythae-resnet", pythae_resnet)
    return train(config)


COMPARISONS: dict[str, tuple[Callable[..., PeerResult], dict[str, Any], int]] = {
    # name: (function that trains the peer, fields of TrainConfig, images per epoch)
    "pytorch-example": (
        partial(train_in_plain_loop, use_example=True),
        {"arch": "mlp", "latent_dim": 20, "likelihood": "bernoulli", "precision": "fp32"},
        19_200,
    ),
    "pythae-mlp": (
        partial(train_with_pythae, resnet=False),
        # The loss of pythae is half the summed squared error, which is the loss of a Gaussian with sigma 1.
        {"arch": "mlp", "precision": "fp32", "options": {"arch": {"hidden": [512]}, "likelihood": {"sigma": 1.0}}},
        19_200,
    ),
    "pythae-resnet": (
        partial(train_with_pythae, resnet=True),
        {"arch": "pythae-resnet", "precision": "auto", "options": {"likelihood": {"sigma": 1.0}}},
        2_560,
    ),
    "plain-loop mlp": (
        partial(train_in_plain_loop, use_example=False),
        {"arch": "mlp", "latent_dim": 20, "likelihood": "bernoulli", "precision": "fp32"},
        59_904,
    ),
    "plain-loop resnet": (
        partial(train_in_plain_loop, use_example=False),
        {"arch": "resnet", "conditional": True, "prior": "flow", "latent_dim": 32, "likelihood": "bernoulli"},
        59_904,
    ),
}


def explain_unavailable(name: str, device: str) -> str | None:
    """Return a line that says why a comparison can't run on this machine, or None if it can."""
    if name.startswith("plain-loop") and device == "cuda" and not torch.cuda.is_available():
        return f"{name}: not measured, because torch finds no CUDA device; use --device cpu"
    if name.startswith("pythae"):
        try:
            version = metadata.version("pythae")
        except metadata.PackageNotFoundError:
            return f"{name}: not measured, because pythae is not installed; pip install pythae==0.1.2"
        if version != "0.1.2":
            return f"{name}: not measured, because it needs pythae 0.1.2, not {version}; pip install pythae==0.1.2"
    return None


def compare(name: str, args: Any) -> dict[str, Any]:
    peer, flags, images = COMPARISONS[name]
    images = max(1, (args.images or images) // args.batch_size) * args.batch_size  # full batches on both sides
    config = TrainConfig(
        **{
            "prior": "normal", "latent_dim": 10, "likelihood": "gaussian", "schedule": "constant", "clip": 0.0,
            "data": "mnist", "data_dir": args.data_dir, "limit": images, "validation": 0.0, "epochs": 1 + args.epochs,
            "batch_size": args.batch_size, "device": args.device if name.startswith("plain-loop") else "cpu",
            "optimizer": "adam", **({"compile": True} if args.compile else {}), **flags,
            "options": {"objective": {"antithetic": False}, **flags.get("options", {})},
        }
    )  # fmt: skip
    results = run_rounds(
        args.rounds,
        peer=partial(run_in_subprocess, peer, config, images, args.epochs),
        cvae=partial(run_in_subprocess, train_with_cvae, config),
    )
    runs, peer_speeds = results["cvae"], [speed for speed, _ in results["peer"]]
    parameters = results["peer"][0][1]
    assert parameters == runs[0].parameters, f"{name}: {parameters:,} parameters vs. {runs[0].parameters:,} in cvae"
    speeds = [run.images_per_second for run in runs]
    clocks = [run.images_per_second / run.clocked_images_per_second for run in runs if run.clocked_images_per_second]
    return {
        "images": images,
        "batch_size": args.batch_size,
        "parameters": parameters,
        "precision": runs[0].config.training.precision,
        "compile": args.compile,
        "peer": peer_speeds,
        "ours": speeds,
        "ratio": statistics.median(ratios(speeds, peer_speeds)),
        "ratios": ratios(speeds, peer_speeds),
        "clock": statistics.median(clocks) if clocks else None,
    }


def main() -> None:
    parser = make_parser(__doc__)
    comparisons = ("pytorch-example", "pythae-mlp", "pythae-resnet", "plain-loop", "all")
    parser.add_argument("--against", choices=comparisons, default="all", help="Comparison to run.")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="Device for plain-loop. [default: cuda]"
    )
    images_help = "Images per epoch. [default: 2,560 for pythae-resnet, 59,904 for plain-loop, else 19,200]"
    parser.add_argument("--images", type=int, metavar="N", help=images_help)
    parser.add_argument(
        "--epochs", type=int, default=2, metavar="N", help="Number of timed epochs, after one warm-up epoch."
    )
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="Batch size.")
    parser.add_argument(
        "--compile", action="store_true", help="Compile the network of cvae, but not the networks of the peers."
    )
    args = parse_args(parser, against="pytorch-example", images=512, epochs=1, rounds=1)

    names = [name for name in COMPARISONS if args.against in ("all", name.split()[0])]
    notes = [note for name in names if (note := explain_unavailable(name, args.device))]
    names = [name for name in names if not explain_unavailable(name, args.device)]
    if not names:
        raise SystemExit("\n".join(notes))
    metrics = {name: compare(name, args) for name in names}
    table = [("comparison", "parameters", "precision", "peer, images/s", "cvae, images/s", "ratio", "clock")]
    for name, m in metrics.items():
        speeds = [format_range(m["peer"]), format_range(m["ours"]), format_range(m["ratios"], 2)]
        clock = f"{m['clock']:.2f}" if m["clock"] else "unknown"
        table.append((name, f"{m['parameters']:,}", m["precision"], *speeds, clock))
    notes.append("median (min to max) over the rounds; clock: images/s of the engine divided by images/s of the clock")
    report(args.json, metrics, table, notes)


if __name__ == "__main__":
    main()
