"""Networks whose features the perceptual loss compares: a classifier of the data, VGG16, and VGG16 as in LPIPS."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from cvae.data import Dataset, Split
from cvae.errors import CvaeError, UsageError, one_line

STEPS = 600
"""Number of training steps of a classifier."""

BATCH_SIZE = 64
"""Number of images in each of these steps."""

MAX_HELD_OUT = 1000
"""Maximum number of held-out images that the accuracy of a classifier is measured on."""

MIN_SQUARE = 1e-12
"""Minimum mean square of the features of an image to divide by."""

WIDTHS = (16, 32, 64)
"""Numbers of channels of the classifier's feature maps, each half as high and wide as the one before."""


class FeatureNetwork(nn.Module, ABC):
    """Network with features at several layers: images (B, C, H, W) in [0, 1] -> feature maps (B, c, h, w)."""

    @abstractmethod
    def prepare(self, dataset: Dataset, seed: int) -> str:
        """Train or download the network, and return a note for the log.

        Raises:
            CvaeError: If the download fails.
        """

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]: ...

    def distance(self, features: list[Tensor], expected: list[Tensor]) -> Tensor:
        """Return the squared distance (B,) between features, relative to the mean square of the expected ones.

        It is the mean over the layers. Each layer is relative to its own mean square, so that all layers count alike,
        and each image too, so that the distance does not depend on how a batch is divided.
        """
        distances = [
            _mean_square(a.float() - b.float()) / _mean_square(b.float()).clamp(min=MIN_SQUARE)
            for a, b in zip(features, expected, strict=True)
        ]
        return torch.stack(distances).mean(0)


def _mean_square(features: Tensor) -> Tensor:
    return features.square().mean((1, 2, 3))  # (B, c, h, w) -> (B,)


class FeatureClassifier(FeatureNetwork):
    """Convolutional classifier with two convolutions for each feature map.

    Its average pooling has a smoother gradient than maximum pooling, and leads to fewer artifacts (Gatys, Ecker &
    Bethge 2015, section 2, https://arxiv.org/abs/1508.06576).

    Args:
        image_shape: shape (C, H, W) of the images.
        classes: number of classes K.
        steps: number of training steps, None for `STEPS`.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, steps: int | None = None) -> None:
        super().__init__()
        self.steps = steps or STEPS
        channels = image_shape[0]
        self.stages = nn.ModuleList()
        for width in WIDTHS:
            layers: list[nn.Module] = []
            for inputs in (channels, width):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
            channels = width
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs, features = [], 2 * image - 1
        for i, stage in enumerate(self.stages):
            features = stage(avg_pool2d(features, 2, ceil_mode=True) if i else features)
            outputs.append(features)
        return outputs

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits (B, K) of the classes."""
        return self.head(self(image)[-1].mean((2, 3)))  # (B, c, h, w) -> (B, c) -> (B, K)

    def prepare(self, dataset: Dataset, seed: int) -> str:
        """Train the classifier on randomly shifted images, and return its accuracy on held-out images."""
        self.train().requires_grad_(True)
        self._fit(dataset.train, seed)
        self.eval()
        splits = (dataset.validation, dataset.test)
        held_out = next((split for split in splits if split is not None and split.labels is not None), None)
        if held_out is None:
            return "features of a classifier that was trained on the labels"
        return (
            "features of a classifier trained on the labels, which classifies "
            f"{self._accuracy(held_out):.0%} of the held-out images correctly"
        )

    def _fit(self, split: Split, seed: int) -> None:
        assert split.labels is not None
        device = self.head.weight.device
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, self.steps)
        height, width = split.images.shape[2:]
        shift = max(1, min(height, width) // 14)
        for _ in range(self.steps):
            index = torch.randint(len(split), (BATCH_SIZE,), generator=generator).numpy()
            image = torch.from_numpy(split.images[index]).to(device).float() / 255
            target = torch.from_numpy(split.labels[index]).to(device)
            top, left = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
            image = pad(image, (shift,) * 4, mode="replicate")[:, :, top : top + height, left : left + width]
            optimizer.zero_grad()
            cross_entropy(self.logits(image), target).backward()
            optimizer.step()
            scheduler.step()
        optimizer.zero_grad()

    def _accuracy(self, split: Split) -> float:
        assert split.labels is not None
        return measure_accuracy(self.logits, split, split.labels, np.arange(len(split)), self.head.weight.device)


@torch.no_grad()
def measure_accuracy(
    logits: Callable[[Tensor], Tensor], split: Split, labels: np.ndarray, indices: np.ndarray, device: torch.device
) -> float:
    """Return the share of images that are classified correctly, of at most `MAX_HELD_OUT` of those with these indices.

    Args:
        logits: function from images (B, C, H, W) in [0, 1] to logits (B, K).
        split: the images.
        labels: class of each image of the split, (N,).
        indices: indices of the images to choose from.
        device: device of the classifier.
    """
    count, right = min(len(indices), MAX_HELD_OUT), 0
    spaced = indices[np.arange(count) * len(indices) // count]  # images of a folder are sorted by class
    for start in range(0, count, BATCH_SIZE):
        batch = spaced[start : start + BATCH_SIZE]
        image = torch.from_numpy(split.images[batch]).to(device).float() / 255
        right += int((logits(image).argmax(1).cpu().numpy() == labels[batch]).sum())
    return right / count


VGG16_LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512)
"""Channels of the convolutions of VGG16 up to conv4_3."""

VGG16_REPOSITORY, VGG16_FILE = "timm/vgg16.tv_in1k", "model.safetensors"
"""Weights of torchvision's VGG16 on the Hugging Face Hub. torchvision itself offers them only as a pickle."""


class VGG16(FeatureNetwork):
    """Convolutions of VGG16 up to conv4_3 (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

    The features are those before each pooling layer and the last ones. An image that is too small for a pooling layer
    has no features after it. The indices of the layers are those of torchvision.

    Raises:
        UsageError: If the images are neither grey nor colour.
    """

    layout: tuple[int | str, ...] = VGG16_LAYERS
    mean: Tensor
    std: Tensor

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if image_shape[0] not in (1, 3):
            raise UsageError(
                f"VGG16 takes grey or colour images, not images with {image_shape[0]} channels; leave out --loss "
                "perceptual, or use data with labels and --set perceptual.network=classifier"
            )
        layers: list[nn.Module] = []
        channels, side = 3, min(image_shape[1:])
        for entry in self.layout:
            if isinstance(entry, int):
                layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
                channels = entry
            elif side < 2:
                break
            else:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, image: Tensor) -> list[Tensor]:
        features = (image - self.mean) / self.std  # (B, 1 or 3, H, W) -> (B, 3, H, W)
        outputs = []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                outputs.append(features)
            features = layer(features)
        return [*outputs, features]

    def prepare(self, dataset: Dataset, seed: int) -> str:
        self.load()
        return "features of VGG16"

    def load(self) -> None:
        """Load the weights from the Hugging Face Hub or its cache.

        Raises:
            CvaeError: If the download fails, or the file is damaged.
        """
        path = _download_vgg16()
        state = self.layers.state_dict()
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(f"features.{name}") for name in state}
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("it holds values that are not finite")
            self.layers.load_state_dict(tensors)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise CvaeError(
                f"{path!r} is not {VGG16_FILE} of {VGG16_REPOSITORY}: {one_line(error, 200)}; remove it to download it "
                "again"
            ) from error


LPIPS_WEIGHTS = Path(__file__).with_name("lpips-vgg.safetensors")

MIN_SIDE = 16
"""Minimum height and width of images for LPIPS, whose last layer has a 16th of the pixels of each side."""

MIN_SQUARED_LENGTH = 1e-8
"""Number that is added to the squared length of a feature vector, so that the gradient is finite."""


class LPIPS(VGG16):
    """LPIPS: distances in the features of VGG16, weighted to agree with judgments of people.

    The features at each position are scaled to unit length. Their squared differences are weighted for each channel,
    averaged over the positions and added up over five layers (Zhang et al. 2018, eq. 1,
    https://arxiv.org/abs/1801.03924). The weights are those of version 0.1 for VGG16.

    Raises:
        UsageError: If the images are neither grey nor colour, or too small for all layers.
    """

    layout = (*VGG16_LAYERS, "pool", 512, 512, 512)

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] not in (1, 3) or min(image_shape[1:]) < MIN_SIDE:
            raise UsageError(
                f"LPIPS takes grey or colour images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not images of shape "
                f"{image_shape}; leave it out"
            )
        super().__init__(image_shape)
        weights = load_file(LPIPS_WEIGHTS)
        self.weights = nn.ParameterList([weights[f"layer{i}"] for i in range(len(weights))])

    def prepare(self, dataset: Dataset, seed: int) -> str:
        self.load()
        return "LPIPS, on features of VGG16"

    def distance(self, features: list[Tensor], expected: list[Tensor]) -> Tensor:
        """Return the LPIPS (B,) between features."""
        distances = [
            torch.einsum("bchw,c->bhw", (_unit(a.float()) - _unit(b.float())).square(), weight).mean((1, 2))
            for weight, a, b in zip(self.weights, features, expected, strict=True)
        ]
        return torch.stack(distances).sum(0)


def _unit(features: Tensor) -> Tensor:
    """Scale the features (B, c, h, w) at each position to unit length."""
    return features / (features.square().sum(1, keepdim=True) + MIN_SQUARED_LENGTH).sqrt()


def _download_vgg16() -> str:
    """Download the weights of VGG16 (553 MB) into the cache of the Hugging Face Hub, and return their path.

    Raises:
        CvaeError: If they can't be downloaded and are not in the cache.
    """
    import huggingface_hub

    try:
        return huggingface_hub.hf_hub_download(VGG16_REPOSITORY, VGG16_FILE)
    except Exception as error:  # which exception the HTTP client raises depends on the huggingface_hub version
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CvaeError(
            f"VGG16 can't be downloaded ({one_line(reason, 200)}); connect to the network, or fill the cache with: hf "
            f"download {VGG16_REPOSITORY} {VGG16_FILE}"
        ) from error
