"""Images per second in training: peers against the engine here, the same network, batch and number of images.

    python benchmarks/training_speed.py --against pytorch-example|pythae-mlp|pythae-resnet|plain-loop|all
        [--device cuda|cpu] [--data-dir DIR] [--rounds 5] [--images N] [--epochs 2] [--batch-size 128] [--compile]
        [--json]

    pytorch-example  the way of https://github.com/pytorch/examples/tree/main/vae: DataLoader over torchvision's MNIST
                     with ToTensor, a plain loop, the loss read every step. MLP 784-400-20, fp32, CPU.
    pythae-mlp       BaseTrainer of pythae 0.1.2 with its default MLP (784-512-10), fp32, CPU.
    pythae-resnet    the same with its MNIST ResNet; here the same layers as a plug-in, at --precision auto. CPU.
    plain-loop       The network that `cvae train` makes, in a plain loop over a DataLoader, the loss read every step:
                     `mlp` in fp32, `resnet` under the autocast that --precision auto picks. On CUDA, with 4 workers
                     and pinned memory; with --device cpu on the CPU, where --images 2560 keeps the resnet short.

pythae is no dependency: `pip install pythae==0.1.2`.

Timed on each side are whole epochs of training steps with the fetching of their data: one epoch of warm-up, then
--epochs that count. Importing, reading the data set and what comes after an epoch (checkpoints, pictures,
evaluation, a copy of the best model) are not timed on either side. Each measurement has a process of its own; rounds
go A B A B. The engine's figure is its own `images_per_second`, checked by a clock on the optimizer's steps.
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
from _timing import alone, data_root, interleaved, parser, ratios, report, spread, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine.resolve import choose_precision, configure
from cvae.models import build
from cvae.registry import ARCHITECTURES

Peer = tuple[float, int]
"""Images per second and number of parameters."""


def timed(epoch: Callable[[], Any], images: int, epochs: int) -> float:
    """Images per second: the median over `epochs`, after one of warm-up."""
    seconds = []
    for _ in range(1 + epochs):
        started = time.perf_counter()
        epoch()  # reads the loss of its last step, so the device is done
        seconds.append(time.perf_counter() - started)
    return images / statistics.median(seconds[1:])


# -- plain loops -----------------------------------------------------------------------------------------------------


class ExampleVAE(nn.Module):
    """784-400-20 with ReLU, and its loss: cross-entropy and KL divergence, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(784, 400), nn.Linear(20, 400)
        self.mean, self.log_var = nn.Linear(400, 20), nn.Linear(400, 20)
        self.pixels = nn.Linear(400, 784)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        image = image.view(-1, 784)  # (B, 1, 28, 28) -> (B, 784)
        hidden = F.relu(self.inward(image))
        mean, log_var = self.mean(hidden), self.log_var(hidden)  # (B, 20) each
        latent = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        pixels = torch.sigmoid(self.pixels(F.relu(self.outward(latent))))
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return F.binary_cross_entropy(pixels, image, reduction="sum") + kl


class BoundVAE(nn.Module):
    """A network of cvae's with its loss, for a plain loop."""

    def __init__(self, asked: TrainConfig) -> None:
        super().__init__()
        self.vae = build(configure(asked, load_dataset(asked)).model)
        self.conditional = asked.conditional

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        terms = self.vae(image, label if self.conditional else None)
        return (terms.distortion + terms.rate.sum(1)).mean()


def plain_loop(asked: TrainConfig, images: int, epochs: int, own_network: bool) -> Peer:
    from torchvision import datasets, transforms

    device = asked.device
    data = datasets.MNIST(data_root(asked.data_dir), download=True, transform=transforms.ToTensor())
    data.data, data.targets = data.data[:images], data.targets[:images]
    extra: dict[str, Any] = {"num_workers": 4, "pin_memory": True} if device == "cuda" else {}
    loader = DataLoader(data, batch_size=asked.batch_size, shuffle=True, **extra)
    model = (ExampleVAE() if own_network else BoundVAE(asked)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    bf16 = choose_precision(asked.precision, device) == "bf16"

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

    speed = timed(epoch, images, epochs)
    return speed, sum(parameter.numel() for parameter in model.parameters())


# -- pythae ----------------------------------------------------------------------------------------------------------


def pythae(asked: TrainConfig, images: int, epochs: int, resnet: bool) -> Peer:
    """BaseTrainer at its defaults but for batch size and device; what it prints is thrown away.

    Timed is `BaseTrainer.train_step`, which is one epoch over its DataLoader; what `train` does around it (a copy of
    the best model after each epoch, the saving of the last one) is not.
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

        class Timed(BaseTrainer):
            def train_step(self, epoch: int) -> float:
                started = time.perf_counter()
                loss = super().train_step(epoch)
                seconds.append(time.perf_counter() - started)
                return loss

        split = load_dataset(asked).train
        pixels, labels = torch.from_numpy(split.images).float() / 255, torch.from_numpy(split.labels)
        config = VAEConfig(input_dim=(1, 28, 28), latent_dim=asked.latent_dim)
        parts = (Encoder_ResNet_VAE_MNIST(config), Decoder_ResNet_AE_MNIST(config)) if resnet else ()
        model = VAE(config, *parts)
        settings = BaseTrainerConfig(
            output_dir=folder, num_epochs=1 + epochs, per_device_train_batch_size=asked.batch_size, no_cuda=True
        )
        Timed(model, BaseDataset(pixels, labels), training_config=settings).train()
    return images / statistics.median(seconds[1:]), sum(parameter.numel() for parameter in model.parameters())


class Residual(nn.Module):
    """features + conv1x1(relu(conv3x3(relu(features)))), 128 channels with 32 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv2d(128, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 128, 1))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class Unlabelled(nn.Module):
    """Layers as an encoder (two halves: mean and log-variance) or a decoder that sees no label."""

    def __init__(self, halves: bool, *layers: nn.Module) -> None:
        super().__init__()
        self.halves, self.layers = halves, nn.Sequential(*layers)

    def forward(self, features: Tensor, label: Tensor | None) -> Any:
        out = self.layers(features)
        return out.chunk(2, dim=1) if self.halves else out


def pythae_resnet(
    image_shape: tuple[int, int, int], latent_dim: int, param_channels: int, conditioning: object
) -> tuple[nn.Module, nn.Module]:
    """The layers of pythae's Encoder_ResNet_VAE_MNIST and Decoder_ResNet_AE_MNIST, for images (1, 28, 28)."""
    down = (nn.Conv2d(1, 64, 4, 2, 1), nn.Conv2d(64, 128, 4, 2, 1), nn.Conv2d(128, 128, 3, 2, 1))  # 14, 7, 4
    up = (nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, param_channels, 3, 2, 1, 1))
    encoder = Unlabelled(True, *down, Residual(), Residual(), nn.Flatten(), nn.Linear(2048, 2 * latent_dim))
    spread = (nn.Linear(latent_dim, 2048), nn.Unflatten(1, (128, 4, 4)), nn.ConvTranspose2d(128, 128, 3, 2, 1))
    return encoder, Unlabelled(False, *spread, Residual(), Residual(), nn.ReLU(), *up)  # 4, 7, 7, 7, 14, 28


# -- the comparisons -------------------------------------------------------------------------------------------------


def ours(asked: TrainConfig) -> Any:
    if asked.arch == "pythae-resnet":
        ARCHITECTURES.register("pythae-resnet", pythae_resnet)
    return train(asked)


COMPARISONS: dict[str, tuple[Callable[..., Peer], dict[str, Any], int]] = {
    # name: the peer (asked, images, epochs) -> Peer, what is asked of the engine, images of an epoch
    "pytorch-example": (
        partial(plain_loop, own_network=True),
        {"arch": "mlp", "latent_dim": 20, "likelihood": "bernoulli", "precision": "fp32"},
        19_200,
    ),
    "pythae-mlp": (
        partial(pythae, resnet=False),
        # pythae's loss is half the squared error, summed: that of a Gaussian with sigma 1.
        {"arch": "mlp", "precision": "fp32", "options": {"arch": {"hidden": [512]}, "likelihood": {"sigma": 1.0}}},
        19_200,
    ),
    "pythae-resnet": (
        partial(pythae, resnet=True),
        {"arch": "pythae-resnet", "precision": "auto", "options": {"likelihood": {"sigma": 1.0}}},
        2_560,
    ),
    "plain-loop mlp": (
        partial(plain_loop, own_network=False),
        {"arch": "mlp", "latent_dim": 20, "likelihood": "bernoulli", "precision": "fp32"},
        59_904,
    ),
    "plain-loop resnet": (
        partial(plain_loop, own_network=False),
        {"arch": "resnet", "conditional": True, "prior": "flow", "latent_dim": 32, "likelihood": "bernoulli"},
        59_904,
    ),
}


def missing(name: str, device: str) -> str | None:
    """Return why a comparison can't be made here, in one line, or None."""
    if name.startswith("plain-loop") and device == "cuda" and not torch.cuda.is_available():
        return f"{name}: not measured, torch sees no CUDA device; measure on the CPU with --device cpu"
    if name.startswith("pythae"):
        try:
            version = metadata.version("pythae")
        except metadata.PackageNotFoundError:
            return f"{name}: not measured, install the peer first: pip install pythae==0.1.2"
        if version != "0.1.2":
            return f"{name}: not measured, it is about pythae 0.1.2, not {version}: pip install pythae==0.1.2"
    return None


def compare(name: str, args: Any) -> dict[str, Any]:
    peer, wanted, images = COMPARISONS[name]
    images = max(1, (args.images or images) // args.batch_size) * args.batch_size  # whole batches on both sides
    asked = TrainConfig(
        **{
            "prior": "normal", "latent_dim": 10, "likelihood": "gaussian", "schedule": "constant", "clip": 0.0,
            "data": "mnist", "data_dir": args.data_dir, "limit": images, "validation": 0.0, "epochs": 1 + args.epochs,
            "batch_size": args.batch_size, "device": args.device if name.startswith("plain-loop") else "cpu",
            **({"compile": True} if args.compile else {}), **wanted,
        }
    )  # fmt: skip
    results = interleaved(
        args.rounds,
        peer=partial(alone, peer, asked, images, args.epochs),
        ours=partial(alone, ours, asked),
    )
    runs, theirs = results["ours"], [speed for speed, _ in results["peer"]]
    parameters = results["peer"][0][1]
    assert parameters == runs[0].parameters, f"{name}: {parameters:,} parameters, here {runs[0].parameters:,}"
    speeds = [run.images_per_second for run in runs]
    clocks = [run.images_per_second / run.by_outer_clock for run in runs if run.by_outer_clock]
    return {
        "images": images,
        "batch_size": args.batch_size,
        "parameters": parameters,
        "precision": runs[0].config.training.precision,
        "compile": args.compile,
        "peer": theirs,
        "ours": speeds,
        "ratio": statistics.median(ratios(speeds, theirs)),
        "ratios": ratios(speeds, theirs),
        "clock": statistics.median(clocks) if clocks else None,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--against", choices=("pytorch-example", "pythae-mlp", "pythae-resnet", "plain-loop", "all"), default="all"
    )
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device of plain-loop [cuda]")
    options.add_argument(
        "--images", type=int, help="images per epoch [pythae-resnet: 2,560, plain-loop: 59,904, others: 19,200]"
    )
    options.add_argument("--epochs", type=int, default=2, help="that count, after one of warm-up")
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--compile", action="store_true", help="compile the network here (the peers don't)")
    args = options.parse_args()

    names = [name for name in COMPARISONS if args.against in ("all", name.split()[0])]
    notes = [note for name in names if (note := missing(name, args.device))]
    names = [name for name in names if not missing(name, args.device)]
    if not names:
        raise SystemExit("\n".join(notes))
    figures = {name: compare(name, args) for name in names}
    table = [("against", "parameters", "precision here", "peer, images/s", "here, images/s", "ratio", "clock")]
    table += [
        (
            name, f"{f['parameters']:,}", f["precision"], spread(f["peer"]), spread(f["ours"]), spread(f["ratios"], 2),
            f"{f['clock']:.2f}" if f["clock"] else "unseen",
        )
        for name, f in figures.items()
    ]  # fmt: skip
    notes.append("median (least to most) over the rounds; clock: the engine's own figure over that of the outer clock")
    report(args.json, figures, table, notes)


if __name__ == "__main__":
    main()
