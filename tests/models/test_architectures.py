"""Architectures and conditioning: all combinations of parts learn, and their exported graphs agree with torch."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, batch, learn, model_config
from torch import nn

from cvae.engine.resolve import count_latents
from cvae.errors import UsageError
from cvae.exporters.onnx.graph import set_metadata, to_onnx
from cvae.exporters.onnx.wrappers import Decoder, Encoder
from cvae.model_config import ModelConfig, Part
from cvae.models import VAE, build
from cvae.models.architectures.layers import pyramid
from cvae.models.conditioning import ConditionConvolution, ConditionLinear, FeatureModulation
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, OBJECTIVES, PRIORS
from cvae.runtime.scan import scan
from cvae.spec import Spec

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 33, 47), (3, 64, 64)]


def check_export(model: VAE, config: ModelConfig, role: str, count: int = 3) -> None:
    """Check that the exported graph agrees with torch at a batch size that differs from the traced one."""
    spec = Spec(
        role=role,
        name="test",
        architecture=config.architecture.name,
        image_shape=config.image_shape,
        latent_dim=config.latent_dim,
        conditions=config.conditions,
        likelihood=config.likelihood.name,
        prior=config.prior.name,
        data="random",
        data_license="none",
        weights="",
    )
    module = {"decoder": Decoder, "encoder": Encoder}[role](model.eval())
    graph = to_onnx(module, spec)
    set_metadata(graph, spec)
    data = graph.SerializeToString()
    scan(data, spec, "exported graph")
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    image, label = batch(config.image_shape, config.classes is not None, count)
    first = image if role == "encoder" else torch.randn(count, config.latent_dim)
    inputs = {"image" if role == "encoder" else "noise": first} | ({} if label is None else {"label": label})
    with torch.no_grad():
        expected = module(**inputs)
    actual = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    for output, target in zip(actual, expected if role == "encoder" else (expected,), strict=True):
        np.testing.assert_allclose(output, target.numpy(), rtol=0, atol=1e-5)
    if role == "decoder":
        assert actual[0].shape == (count, *config.image_shape)
        assert actual[0].min() >= 0 and actual[0].max() <= 1


def combinations() -> Iterator[Any]:
    """Yield all combinations.

    Those that are not slow cover each architecture with and without labels, and each likelihood.
    """
    for i, (arch, labels) in enumerate(product(FAMILIES, [False, True])):
        for j, likelihood in enumerate(LIKELIHOODS):
            for k, shape in enumerate(SHAPES):
                is_fast = j == i % len(list(LIKELIHOODS)) and (i + j - k) % len(SHAPES) == 0
                yield pytest.param(arch, labels, likelihood, shape, marks=() if is_fast else pytest.mark.slow)


@pytest.mark.integration
@pytest.mark.parametrize(("arch", "labels", "likelihood", "shape"), list(combinations()))
def test_every_combination_builds_learns_and_exports(arch, labels, likelihood, shape):
    torch.manual_seed(0)
    config = model_config(arch, shape, labels, likelihood)
    model = build(config)
    learn(model, *batch(shape, labels))
    check_export(model, config, "decoder")
    check_export(model, config, "encoder")


OPTIONAL_LAYERS = {
    "conv": {"width": 4, "max_width": 8, "hidden": 16, "pool": True, "dropout": 0.1},
    "resnet": {"width": 4, "blocks": 2, "batch_norm": True},
}


@pytest.mark.integration
@pytest.mark.parametrize("shape", [SHAPES[-1], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[:-1])])
@pytest.mark.parametrize("labels", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arch", OPTIONAL_LAYERS)
def test_optional_layers_learn_and_export(arch, labels, shape):
    torch.manual_seed(0)
    config = model_config(arch, shape, labels, **OPTIONAL_LAYERS[arch])
    model = build(config)
    learn(model, *batch(shape, labels))
    check_export(model, config, "decoder")
    check_export(model, config, "encoder")


@pytest.mark.integration
@pytest.mark.parametrize("arch", ["conv", "resnet"])
@pytest.mark.parametrize("conditioning", [None, *CONDITIONINGS])
def test_grid_of_latents_learns_exports_and_is_local(conditioning, arch):
    torch.manual_seed(0)
    labels = conditioning is not None
    shape = (3, 64, 48)
    options = {"width": 4, "max_width": 8, "smallest": 16, "latent_channels": 2}
    config = model_config(arch, shape, labels, conditioning=conditioning or "film", **options)
    architecture = Part(name=arch, options=ARCHITECTURES.resolve(arch, options))
    config = replace(config, latent_dim=count_latents(architecture, shape, 5))
    assert config.latent_dim == 2 * 16 * 12
    model = build(config)
    learn(model, *batch(shape, labels))
    check_export(model, config, "decoder")
    check_export(model, config, "encoder")
    model.eval()
    image = torch.rand(1, *shape)
    other = image.clone()
    other[..., -1, -1] = 1 - other[..., -1, -1]
    label = torch.zeros(1, dtype=torch.int64) if labels else None
    a, b = (model.encoder(x, label)[0].view(2, 16, 12) for x in (image, other))
    change = (a - b).abs().amax(0)  # (16, 12)
    assert change[-1, -1] == change.max() > 0 and change[0, 0] == 0


@pytest.mark.parametrize("smallest", [4, 16])  # with 16, the only feature maps are those of the grid
@pytest.mark.parametrize("arch", ["conv", "resnet"])
@pytest.mark.parametrize("conditioning", list(CONDITIONINGS))
def test_label_reaches_encoder_and_decoder_of_a_grid_of_latents(conditioning, arch, smallest):
    torch.manual_seed(0)
    shape = (1, 16, 16)
    options = {"width": 4, "max_width": 8, "smallest": smallest, "latent_channels": 2}
    config = model_config(arch, shape, labels=True, conditioning=conditioning, **options)
    model = build(replace(config, latent_dim=count_latents(config.architecture, shape, 5))).eval()
    image, noise = torch.rand(1, *shape), torch.randn(1, model.latent_dim)
    a, b = torch.tensor([0]), torch.tensor([1])
    with torch.no_grad():
        for parameter in model.parameters():  # some start as zero
            parameter += 0.1 * torch.randn(parameter.shape)
        assert not torch.allclose(model.decode(noise, a), model.decode(noise, b), atol=1e-4)
        assert not torch.allclose(model.encode(image, a)[0], model.encode(image, b)[0], atol=1e-4)


def test_dimension_of_spatial_latent_must_be_a_multiple_of_its_positions():
    with pytest.raises(UsageError, match=r"32 is not a multiple of 12, the number of positions .* use 36"):
        build(replace(model_config("resnet", (3, 32, 24), spatial=True), latent_dim=32))


GRIDS = {"width": 4, "max_width": 8, "blocks": 2, "patch": 2, "smallest": 4, "latent_channels": 3}


def grid_config(
    shape: tuple[int, int, int], labels: bool = False, prior: str = "normal", **options: int
) -> ModelConfig:
    config = model_config("ladder", shape, labels, prior=prior, **GRIDS, **options)
    return replace(config, latent_dim=count_latents(config.architecture, shape, config.latent_dim))


def test_grids_add_latents_at_every_position_of_the_larger_feature_maps():
    config = grid_config((3, 33, 47))  # 17 x 24 (too large for latents), 9 x 12 and 5 x 6 (grids), 3 x 3 (vectors)
    assert config.latent_dim == 5 + 2 * 3 * (9 * 12 + 5 * 6)
    assert build(config).decoder.groups == (3, 2, 90, 90, 324, 324)


@pytest.mark.parametrize("option", ["blocks", "patch", "smallest"])
def test_option_of_the_ladder_is_checked_before_its_latents_are_counted(option):
    with pytest.raises(UsageError, match=f"option {option}=0 must be at least 1"):
        count_latents(Part(name="ladder", options={**GRIDS, option: 0}), (1, 28, 28), 8)


def test_ladder_can_have_fewer_blocks_at_the_smallest_resolution():
    shape = (1, 28, 28)  # feature maps: 14 x 14 and 7 x 7 (grids), 4 x 4 (vectors)
    config = grid_config(shape, smallest_blocks=1)
    model = build(config)
    assert config.latent_dim == 5 + 2 * 3 * (14 * 14 + 7 * 7)
    assert model.decoder.groups == (5, 147, 147, 588, 588)
    assert [len(stage.blocks) for stage in model.encoder.stages] == [2, 2, 1]


@pytest.mark.integration
@pytest.mark.parametrize("prior", [prior for prior in PRIORS if prior != "flow-grid"])
@pytest.mark.parametrize("labels", [False, True])
def test_grids_learn_export_and_are_local(labels, prior):
    torch.manual_seed(0)
    shape = (1, 28, 28)  # feature maps: 14 x 14, 7 x 7, 4 x 4
    config = grid_config(shape, labels, prior)
    config = replace(config, prior=Part(name=prior, options={"dims": 5} if prior == "flow" else {}))
    model = build(config)
    learn(model, *batch(shape, labels))
    check_export(model, config, "decoder")
    check_export(model, config, "encoder")
    label = torch.zeros(1, dtype=torch.int64) if labels else None
    noise = torch.randn(1, config.latent_dim)
    changed_noise = noise.clone()
    changed_noise[:, -1] += 3  # the bottom right corner of the last grid, in its last channel
    change = (model.decoder(changed_noise, label) - model.decoder(noise, label)).abs()[0, 0]
    assert change[-4:, -4:].max() > 0 and change[:14, :14].max() == 0


def test_codes_of_an_extreme_image_are_finite():
    torch.manual_seed(0)
    model = build(grid_config((1, 28, 28)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1.0)
    mean, std = model.encode(1e4 * torch.rand(2, 1, 28, 28))
    assert mean.isfinite().all() and std.isfinite().all() and mean.abs().max() > 10


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
@pytest.mark.parametrize("conditioning", [None, *CONDITIONINGS])
def test_every_parameter_learns(arch, conditioning):
    torch.manual_seed(0)
    model = build(model_config(arch, (3, 13, 10), conditioning is not None, conditioning=conditioning or "film"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learn(model, *batch((3, 13, 10), conditioning is not None))
    unchanged = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []


@pytest.mark.integration
@pytest.mark.parametrize(("prior", "objective"), list(product(PRIORS, OBJECTIVES)))
@pytest.mark.parametrize("labels", [False, True])
def test_every_prior_and_objective_learns_and_exports(prior, objective, labels):
    torch.manual_seed(0)
    config = model_config("conv" if prior == "flow-grid" else "mlp", labels=labels, prior=prior)
    model = build(config)
    learn(model, *batch((1, 8, 8), labels), objective)
    if objective == "elbo":  # the exported graph does not depend on the objective
        check_export(model, config, "decoder")
        check_export(model, config, "encoder")


@pytest.mark.parametrize("conditioning", list(CONDITIONINGS))
@pytest.mark.parametrize("arch", FAMILIES)
def test_label_reaches_encoder_and_decoder(arch, conditioning):
    torch.manual_seed(0)
    model = build(model_config(arch, labels=True, conditioning=conditioning))
    learn(model, *batch((1, 8, 8), True))
    model.eval()
    image, noise = torch.rand(1, 1, 8, 8), torch.randn(1, 5)
    a, b = torch.tensor([0]), torch.tensor([1])
    with torch.no_grad():
        assert not torch.allclose(model.decode(noise, a), model.decode(noise, b), atol=1e-6)
        assert not torch.allclose(model.encode(image, a)[0], model.encode(image, b)[0], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["conv", "resnet", "ladder"]), st.sampled_from([1, 3]), st.integers(8, 128), st.integers(8, 128))
def test_decoded_image_has_the_size_of_the_input(arch, channels, height, width):
    blocks = {"blocks": 1} if arch == "ladder" else {}
    model = build(model_config(arch, (channels, height, width), width=2, max_width=2, **blocks)).eval()
    with torch.no_grad():
        mean, std = model.encode(torch.rand(1, channels, height, width))
        assert mean.shape == std.shape == (1, 5)
        assert model.decode(mean).shape == (1, channels, height, width)


def test_pyramid_halves_size_and_doubles_width():
    levels = [tuple(level) for level in pyramid((3, 33, 8), 16, 64)]
    assert levels == [(16, 33, 8), (32, 17, 4), (64, 9, 2), (64, 5, 1), (64, 3, 1)]


def test_mlp_has_as_many_parameters_as_the_pytorch_example():
    model = build(model_config("mlp", (1, 28, 28), hidden=[400]))
    latent = 5
    assert (
        sum(p.numel() for p in model.parameters())
        == (784 + 1) * 400 + 401 * 2 * latent + (latent + 1) * 400 + 401 * 784
    )


def test_label_linear_is_a_linear_layer_over_the_one_hot_label():
    layer = ConditionLinear(4, 6, condition_features=3)
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    joined = torch.cat([x, nn.functional.one_hot(y, 3).float()], 1)
    weight = torch.cat([layer.linear.weight, layer.table.weight.T], 1)
    torch.testing.assert_close(layer(x, y), nn.functional.linear(joined, weight, layer.linear.bias))


def test_convolution_sees_the_label_as_further_channels():
    layer = ConditionConvolution(4, 6, 3, condition_features=3)
    x, y = torch.randn(5, 4, 8, 7), torch.tensor([0, 2, 1, 1, 0])
    channels = nn.functional.one_hot(y, 3).float()[..., None, None].expand(5, 3, 8, 7)
    # The table acts as a kernel of size 1, so it is padded to size 3.
    kernel = nn.functional.pad(layer.table.weight.T[..., None, None], (1, 1, 1, 1))
    weight = torch.cat([layer.weight, kernel], 1)
    expected = nn.functional.conv2d(torch.cat([x, channels], 1), weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, y), expected)


def test_modulation_starts_as_identity_then_scales_and_shifts_by_label():
    layer = FeatureModulation(2, condition_features=3)
    x, y = torch.randn(3, 2, 4, 4), torch.tensor([2, 0, 1])
    torch.testing.assert_close(layer(x, y), x)
    nn.init.normal_(layer.table.weight)
    scale, shift = layer.table.weight[2, :2], layer.table.weight[2, 2:]
    torch.testing.assert_close(layer(x, y)[0], x[0] * (1 + scale[:, None, None]) + shift[:, None, None])


def test_ladder_infers_each_group_from_the_groups_above():
    torch.manual_seed(0)
    model = build(model_config("ladder", (1, 16, 16), width=4, blocks=1, patch=1)).eval()
    assert model.decoder.groups == (2, 2, 1)
    image, noise = torch.rand(1, 1, 16, 16), torch.randn(1, 5)
    other = noise.clone()
    other[:, 2:4] += 1  # the middle group
    a, b = (model(image, None, x).mean[0] for x in (noise, other))
    torch.testing.assert_close(a[:4], b[:4])
    assert (a[4:] != b[4:]).all()


@pytest.mark.parametrize("shape", [(1, 2, 8), (0, 8, 8), (17, 8, 8)])
def test_invalid_image_shapes_are_rejected(shape):
    with pytest.raises(UsageError, match="image shape"):
        model_config(shape=shape)
