"""LPIPS, compared with another implementation on the same random weights of VGG16."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models.vgg import cfgs, make_layers

from cvae.errors import UsageError
from cvae.evaluation.run_scorer import lpips
from cvae.models import feature_networks
from cvae.models.feature_networks import LPIPS, VGG16_FILE
from cvae.models.losses import ImageBatch
from cvae.models.perceptual import Perceptual


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _LPIPS:
    """Return LPIPS of torchmetrics on random weights of VGG16, which replace the downloaded ones."""
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"])  # without the fully connected layers, which take seconds to create
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_: layers)
    network = _LPIPS(net="vgg", pnet_rand=True)
    tensors = {}
    for part in network.net.children():
        tensors |= {f"features.{name}": tensor for name, tensor in part.state_dict().items()}
    save_file(tensors, tmp_path / VGG16_FILE)
    monkeypatch.setattr(feature_networks, "_download_vgg16", lambda: str(tmp_path / VGG16_FILE))
    return network


def images(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 48), (1, 28, 28)], ids=str)
def test_lpips_agrees_with_torchmetrics(reference, shape, monkeypatch):
    monkeypatch.setattr(lpips, "MAX_POSITIONS", 2 * shape[1] * shape[2])  # two batches
    a, b = images((3, *shape), 1), images((3, *shape), 2)
    b[1] = a[1].roll(1, -1)  # a smaller distance
    expected = reference(*(image.expand(-1, 3, -1, -1) for image in (a, b)), normalize=True).flatten()
    compute = lpips.load_lpips(shape, "cpu")
    np.testing.assert_allclose(compute(a.numpy(), b.numpy()), expected, rtol=1e-4)
    assert compute(a.numpy(), a.numpy()).max() == 0 < expected.min()
    loss = Perceptual(shape, None, network="lpips")
    assert loss.prepare(None, 0) == "perceptual loss: LPIPS, on features of VGG16"
    torch.testing.assert_close(loss(ImageBatch(a, b)), expected.mean(), rtol=1e-4, atol=0)


def test_weights_of_the_layers_are_those_of_torchmetrics(reference):
    weights = [layer.model[-1].weight.flatten() for layer in reference.lins]
    assert [len(weight) for weight in weights] == [64, 128, 256, 512, 512]
    for actual, expected in zip(LPIPS((3, 16, 16)).weights, weights, strict=True):
        assert torch.equal(actual, expected)


def test_loss_has_a_finite_gradient_for_features_that_are_zero():
    torch.manual_seed(0)
    loss = Perceptual((1, 16, 16), None, network="lpips")
    for name, parameter in loss.features.layers.named_parameters():
        parameter.data.fill_(-1.0 if name.endswith("bias") else 0.0)  # all features are zero
    reconstruction = images((2, 1, 16, 16), 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(ImageBatch(images((2, 1, 16, 16), 2), reconstruction)), reconstruction)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 32, 32), (3, 15, 40)])
def test_images_that_do_not_suit_lpips_are_rejected(shape):
    with pytest.raises(UsageError, match=r"at least 16x16 pixels, not images of shape"):
        LPIPS(shape)


@pytest.mark.integration
def test_evaluation_reports_lpips_of_runs_and_exported_files(cvae, reference):
    arguments = ["evaluate", "mnist-resnet-conditional", "--data", "mnist-small", "--limit", 6, "--generated", 0]
    reports = [cvae(*arguments, "--lpips", "--json", *flags).json for flags in ([], ["--exported"])]
    values = [report["reconstruction"]["lpips"] for report in reports]
    assert values[0] == pytest.approx(values[1], rel=1e-3) and values[0] > 0
    assert reports[1]["backend"].startswith("onnxruntime")
    assert "lpips" not in cvae(*arguments, "--json").json["reconstruction"]
