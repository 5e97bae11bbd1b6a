"""Losses on the decoder's images: formulas, networks, downloads and errors."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_mirror import Mirror
from safetensors.torch import save_file
from torch import nn

from cvae.data import Dataset, Split
from cvae.errors import CvaeError, UsageError
from cvae.models import feature_networks
from cvae.models.adversarial import Adversarial, Discriminator
from cvae.models.feature_networks import VGG16, VGG16_FILE, VGG16_REPOSITORY, FeatureClassifier
from cvae.models.label_loss import LabelLoss
from cvae.models.losses import ImageBatch
from cvae.models.perceptual import Perceptual
from cvae.registry import LOSSES

SHAPES = [(1, 4, 4), (3, 5, 9), (1, 8, 8), (3, 32, 48)]


def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [*LOSSES])
def test_every_loss_has_a_gradient_for_images_of_any_shape(name, shape):
    torch.manual_seed(0)
    loss = LOSSES.get(name)(shape, 3).eval()
    reconstruction = images(4, shape, 1).requires_grad_()
    random_image = images(2, shape, 2).requires_grad_()
    value = loss(ImageBatch(images(4, shape), reconstruction, random_image, torch.tensor([0, 2])))
    (gradient,) = torch.autograd.grad(value, random_image if loss.needs_labels else reconstruction)
    assert value.shape == () and gradient.isfinite().all() and gradient.abs().max() > 0


# -- adversarial -------------------------------------------------------------------------------------------------------


class MeanLogit(nn.Module):
    """Discriminator whose logit is four times the mean of the image, minus two."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 4 * image.mean((1, 2, 3), keepdim=True) - 2


@pytest.mark.parametrize("random_weight", [0.0, 0.5])
def test_hinge_loss_agrees_with_values_computed_by_hand(random_weight):
    loss = Adversarial((1, 8, 8), None, random_weight=random_weight)
    loss.discriminator = MeanLogit()
    real, fake, random = (torch.full((2, 1, 8, 8), value) for value in (0.6, 0.4, 0.1))  # logits 0.4, -0.4 and -1.6
    assert loss.needs_random_images == (random_weight > 0)
    batch = ImageBatch(real, fake, random if loss.needs_random_images else None)
    share = random_weight / (1 + random_weight)
    assert loss(batch).item() == pytest.approx((1 - share) * 0.4 + share * 1.6)
    expected = (0.6 + (1 - share) * 0.6 + share * 0.0) / 2
    assert loss.training_loss(batch).item() == pytest.approx(expected)


@pytest.mark.parametrize(("layers", "side"), [(2, 26), (3, 54)])
def test_discriminator_judges_patches_of_the_documented_side(layers, side):
    torch.manual_seed(0)
    discriminator = Discriminator(3, layers, 8, 128)
    discriminator.norms = nn.ModuleList(nn.Identity() for _ in discriminator.norms)  # they see the whole image
    image = images(1, (3, 128, 128)).requires_grad_()
    logits = discriminator(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows, columns = (image.grad.abs().sum((0, 1, dim)).nonzero().flatten() for dim in (3, 2))
    assert [int(i.max() - i.min() + 1) for i in (rows, columns)] == [side, side]


def test_logits_of_an_image_do_not_depend_on_its_batch():
    torch.manual_seed(0)
    discriminator, batch = Discriminator(3, 2, 8, 32).double(), images(4, (3, 32, 48)).double()
    torch.testing.assert_close(discriminator(batch)[:1], discriminator(batch[:1]))


def test_discriminator_learns_to_tell_images_apart():
    torch.manual_seed(0)
    loss = Adversarial((1, 16, 16), None, width=8)
    optimizer = torch.optim.Adam(loss.parameters(), 2e-3)
    real, fake = images(16, (1, 16, 16)), 0.5 + 0.2 * (images(16, (1, 16, 16), 1) - 0.5)
    for _ in range(30):
        optimizer.zero_grad()
        loss.training_loss(ImageBatch(real, fake)).backward()
        optimizer.step()
    assert loss.discriminator(real).mean() - loss.discriminator(fake).mean() > 0.5
    assert loss(ImageBatch(real, real)) < loss(ImageBatch(real, fake))


# -- label -------------------------------------------------------------------------------------------------------------


class FixedClassifier(nn.Module):
    """Classifier whose logits are those of an image's first row of pixels."""

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, 0, 0]


def test_label_loss_is_the_cross_entropy_of_known_labels_of_random_images():
    loss = LabelLoss((1, 3, 3), 3)
    loss.classifier = FixedClassifier()
    random = images(4, (1, 3, 3))
    label = torch.tensor([2, 3, 0, 1])  # the number of classes, 3, stands for an unknown label
    log_probability = random[:, 0, 0].log_softmax(1)
    expected = -(log_probability[0, 2] + log_probability[2, 0] + log_probability[3, 1]) / 4
    torch.testing.assert_close(loss(ImageBatch(random, random, random, label)), expected)
    assert loss(ImageBatch(random, random, random, torch.full((4,), 3))) == 0


@pytest.mark.parametrize("classes", [None, 1])
def test_label_loss_without_labels_is_an_error(classes):
    with pytest.raises(UsageError, match="--loss label needs a label of two or more classes that every image has"):
        LabelLoss((1, 8, 8), classes)


# -- perceptual --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, None])
def test_perceptual_loss_is_the_mean_relative_squared_distance(classes):
    torch.manual_seed(0)
    loss = Perceptual((3, 16, 16), classes).eval()
    assert isinstance(loss.features, FeatureClassifier if classes else VGG16)
    a, b = images(4, (3, 16, 16)), images(4, (3, 16, 16), 1)
    pairs = zip(loss.features(a), loss.features(b), strict=True)
    ratios = [torch.dist(x[i], y[i]) ** 2 / x[i].norm() ** 2 for x, y in pairs for i in range(len(a))]
    torch.testing.assert_close(loss(ImageBatch(a, b)), sum(ratios) / len(ratios))
    assert loss(ImageBatch(a, a)) == 0


def test_vgg16_agrees_with_torchvision():
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    network, layers = VGG16((3, 32, 32)), make_layers(cfgs["D"])[:23]
    network.layers.load_state_dict(layers.state_dict())
    image = images(2, (3, 32, 32))
    expected = (image - network.mean) / network.std
    features = []
    for i, layer in enumerate(layers):
        if i in (4, 9, 16):  # the pooling layers
            features.append(expected)
        expected = layer(expected)
    for actual, reference in zip(network(image), [*features, expected], strict=True):
        torch.testing.assert_close(actual, reference)


def dataset(labelled: bool = True) -> Dataset:
    """Return images of 16 x 16 pixels whose label says whether they are bright or dark."""
    labels = np.arange(200) % 2
    noise = np.random.default_rng(0).integers(0, 128, (200, 1, 16, 16))
    split = Split(images=(noise + 127 * labels[:, None, None, None]).astype(np.uint8), labels=labels)
    classes = ("dark", "bright") if labelled else None
    return Dataset(name="shades", train=split, validation=split, classes=classes, data_license="none")


@pytest.mark.integration
def test_classifier_is_trained_on_the_labels_and_then_frozen(monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", 20)
    notes, weights = [], []
    for _ in range(2):
        torch.manual_seed(0)
        loss = Perceptual((1, 16, 16), 2)
        notes.append(loss.prepare(dataset(), 7))
        weights.append(loss.features.head.weight)
    assert notes[0] == notes[1] and notes[0].endswith("classifies 100% of the held-out images correctly")
    assert torch.equal(*weights)  # the seeds determine the classifier
    assert not loss.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in loss.parameters())


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Mirror]:
    """Start a hub without repositories, and use an empty cache."""
    pytest.importorskip("huggingface_hub")
    with Mirror({}) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


def publish(mirror: Mirror, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir()
    save_file(tensors, folder / VGG16_FILE)
    mirror.repositories[VGG16_REPOSITORY] = folder


def test_weights_of_vgg16_are_downloaded(mirror, tmp_path):
    """The file also has the weights of the fully connected layers, which are not loaded."""
    torch.manual_seed(0)
    expected = VGG16((1, 4, 4)).layers.state_dict()
    tensors = {f"features.{name}": tensor for name, tensor in expected.items()}
    publish(mirror, tmp_path / "vgg", {**tensors, "pre_logits.fc1.weight": torch.zeros(2, 2)})
    loss = Perceptual((1, 4, 4), None)
    assert loss.prepare(dataset(labelled=False), 0) == "perceptual loss: features of VGG16"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loss.features.layers.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("damage", ["names", "shapes", "values"])
def test_other_weights_than_those_of_vgg16_are_rejected(mirror, tmp_path, damage):
    tensors = {f"features.{name}": tensor for name, tensor in VGG16((1, 4, 4)).layers.state_dict().items()}
    bias = "features.0.bias"
    tensors |= {"names": {}, "shapes": {bias: torch.zeros(3)}, "values": {bias: torch.full((64,), torch.nan)}}[damage]
    if damage == "names":
        del tensors[bias]
    publish(mirror, tmp_path / "vgg", tensors)
    with pytest.raises(CvaeError, match=rf"is not {VGG16_FILE} of {VGG16_REPOSITORY}: .*; remove it") as caught:
        Perceptual((1, 4, 4), None, network="vgg16").prepare(dataset(), 0)
    assert "\n" not in str(caught.value)


def test_error_without_labels_and_without_download_names_the_ways_out(mirror):
    with pytest.raises(CvaeError) as caught:
        Perceptual((1, 4, 4), None).prepare(dataset(labelled=False), 0)
    message = str(caught.value)
    assert message.startswith("--loss perceptual needs labels, to train a classifier, or else VGG16: ")
    assert message.endswith(f"fill the cache with: hf download {VGG16_REPOSITORY} {VGG16_FILE}") and "\n" not in message


@pytest.mark.parametrize(
    ("shape", "classes", "network", "message"),
    [
        ((1, 8, 8), None, "classifier", r"needs labels of two or more classes.*--set perceptual.network=vgg16"),
        ((1, 8, 8), 1, "classifier", r"needs labels of two or more classes"),
        ((2, 8, 8), 5, "vgg16", r"not images with 2 channels.*network=classifier"),
        ((1, 8, 8), 5, "lpips", r"LPIPS takes .* of at least 16x16 pixels"),
        ((1, 8, 8), 5, "vgg", r"option network='vgg': no such network; did you mean 'vgg16'"),
    ],
)
def test_network_that_does_not_suit_the_data_is_rejected(shape, classes, network, message):
    with pytest.raises(UsageError, match=message):
        Perceptual(shape, classes, network=network)
