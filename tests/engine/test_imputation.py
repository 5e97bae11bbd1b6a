"""Semi-supervised training: labels that are drawn from their posterior."""

import numpy as np
import pytest
import torch
from model_helpers import CONDITIONS, model_config

import cvae
from cvae.condition_rows import make_rows
from cvae.conditions import Condition
from cvae.engine.imputation import impute
from cvae.errors import UsageError
from cvae.models import build

LABEL = (Condition(name="label", kind="category", values=("a", "b", "c", "d"), optional=True),)


@pytest.mark.parametrize("conditions", [LABEL, CONDITIONS], ids=["label", "several"])
def test_unknown_label_is_the_quantile_of_its_posterior(conditions):
    torch.manual_seed(0)
    model = build(model_config(conditions=conditions))
    image, noise, random = torch.rand(12, 1, 8, 8), torch.randn(12, 5), torch.rand(12)
    labels, known = np.arange(12) % 4, np.arange(12) % 3 == 0
    others = {"age": np.full(12, 9.0), "smiling": np.ones((12, 1)), "traits": np.zeros((12, 3))}
    name = conditions[0].name

    def rows(labels, known):
        flags = np.concatenate([known[:, None], np.ones((12, len(conditions) - 1), bool)], axis=1)
        return torch.from_numpy(make_rows(conditions, {name: labels, **others}, flags))

    with torch.no_grad():
        every = np.ones(12, bool)
        terms = [model.eval()(image, rows(np.full(12, k), every), noise) for k in range(4)]
    likelihood = torch.stack([-t.distortion - t.rate.sum(1) for t in terms], dim=1).double()
    share = (likelihood - likelihood.logsumexp(1, keepdim=True)).exp().cumsum(1).numpy()
    expected = [np.searchsorted(share[i], random[i].item()) if not known[i] else labels[i] for i in range(12)]
    actual = impute(model.train(), image, rows(labels, known), noise, random)
    assert torch.equal(actual, rows(np.minimum(expected, 3), every)) and model.training


@pytest.mark.integration
def test_few_labels_are_enough_for_classes_that_differ_clearly(tmp_path):
    random = np.random.default_rng(0)
    label = np.arange(400) % 2
    images = np.clip(random.normal(70 + 120 * label[:, None, None], 10, (400, 8, 8)), 0, 255).astype(np.uint8)
    names = [["dark", "bright"][value] if i < 20 else None for i, value in enumerate(label)]
    run = cvae.train(
        images=images, conditions={"label": names}, condition=["label:category"], impute=True, arch="mlp", latent_dim=2,
        prior="normal", epochs=25, batch_size=20, validation=0, trackers=["none"], out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    model = run.load()
    assert model.generate(8, label="bright", seed=0).mean() > 0.6 > 0.4 > model.generate(8, label="dark", seed=0).mean()
    assert (model.nearest_label(images) == [model.classes.index(["dark", "bright"][value]) for value in label]).all()


@pytest.mark.parametrize("flag", ["balance", "impute"])
def test_data_without_classes_are_rejected(flag, tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    with pytest.raises(UsageError, match=f"--{flag} needs images with classes"):
        cvae.train(images=images, arch="mlp", epochs=1, out=tmp_path / "run", quiet=True, **{flag: True})
