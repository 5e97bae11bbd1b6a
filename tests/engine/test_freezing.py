"""Frozen parameters: they and their buffers stay as they are, and everything else is trained."""

from dataclasses import replace

import pytest
from engine_helpers import QUICK, load_weights
from model_helpers import FAMILIES, NARROW, model_config

from cvae.engine import train
from cvae.engine.freezing import freeze, frozen_modules
from cvae.errors import UsageError
from cvae.models import build


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_pattern_names_a_module_or_parameters():
    names = trainable(build(model_config("resnet", prior="flow")))
    for pattern, prefix in {"encoder": "encoder.", "*.head": "decoder.head.", "decoder.head.bias": "decoder.h"}.items():
        model = build(model_config("resnet", prior="flow"))
        freeze(model, [pattern])
        frozen = names - trainable(model)
        assert frozen and all(name.startswith((prefix, "encoder.head.")) for name in frozen)
    model = build(model_config("resnet", prior="flow"))
    freeze(model, ["encoder", "prior"])
    assert trainable(model) == {name for name in names if name.startswith("decoder.")}
    assert list(frozen_modules(model)) == [model.encoder, model.prior]


def test_module_without_parameters_can_be_frozen():
    model = build(model_config(prior="normal"))
    freeze(model, ["prior"])
    assert trainable(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.integration
@pytest.mark.parametrize(("freeze", "changes"), [(("likelihood",), False), ((), True)])
def test_frozen_standard_deviation_stays_though_it_is_not_a_parameter(tmp_path, freeze, changes):
    config = replace(QUICK, epochs=1, limit=128, likelihood="gaussian-optimal")
    first = train(config, tmp_path / "first", quiet=True)
    second = train(replace(config, init=str(first), freeze=freeze), tmp_path / "second", quiet=True)
    before, after = (load_weights(run)["likelihood.log_sigma"] for run in (first, second))
    assert (before != after) == changes


@pytest.mark.integration
def test_centering_keeps_frozen_biases(tmp_path):
    config = replace(QUICK, epochs=1, limit=128)
    first = train(config, tmp_path / "first", quiet=True)
    second = train(replace(config, init=str(first), freeze=("*.bias",), center=True), tmp_path / "second", quiet=True)
    before, after = load_weights(first), load_weights(second)
    biases = [name for name in before if name.endswith(".bias")]
    assert biases and all((after[name] == before[name]).all() for name in biases)


def test_pattern_without_match_and_nothing_to_train_are_errors():
    model = build(model_config())
    with pytest.raises(UsageError, match=r"--freeze encodr: no module .* 'encoder'"):
        freeze(model, ["encodr"])
    with pytest.raises(UsageError, match="--freeze encoder --freeze decoder leaves nothing to train"):
        freeze(model, ["encoder", "decoder"])


@pytest.mark.integration
@pytest.mark.parametrize("arch", FAMILIES)
def test_training_keeps_frozen_parameters_and_their_buffers_bit_for_bit(tmp_path, arch):
    """The architecture conv has batch norm, whose statistics are buffers."""
    config = replace(
        QUICK, arch=arch, latent_dim=5, options={"arch": NARROW[arch]}, epochs=1, limit=128, prior="flow", ema=0.9
    )
    first = train(config, tmp_path / "first", quiet=True)
    before = load_weights(first)
    stages = [{"optimizer": "muon", "center": True}, {"optimizer": "adamw", "weight_decay": 0.1, "accumulate": 2}]
    for i, stage in enumerate(stages):
        second = replace(config, init=str(first), freeze=("encoder", "prior"), **stage)
        after = load_weights(train(second, tmp_path / f"second-{i}", quiet=True))
        frozen = [name for name in before if name.startswith(("encoder.", "prior."))]
        assert all((after[name] == before[name]).all() for name in frozen)
        assert any((after[name] != before[name]).any() for name in before if name.startswith("decoder."))
