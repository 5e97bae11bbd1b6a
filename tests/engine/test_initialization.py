"""Initial weights of a run."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import QUICK, load_weights

from cvae.data import Split, load_dataset
from cvae.engine import initialization, train
from cvae.engine.resolve import configure
from cvae.errors import UsageError
from cvae.models import build


def test_mean_image_is_that_of_the_first_images_and_is_read_in_parts(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (120, 1, 4, 5), dtype=np.uint8)
    sizes = []

    class Images(np.ndarray):
        def __getitem__(self, index):
            part = super().__getitem__(index)
            sizes.append(len(part))
            return part

    monkeypatch.setattr(initialization, "MEAN_IMAGES", 100)
    monkeypatch.setattr(initialization, "READ_IMAGES", 30)
    mean = initialization._mean_image(Split(images=images.view(Images)))
    assert sizes == [30, 30, 30, 10]
    assert torch.equal(mean, torch.from_numpy(images[:100].mean(0) / 255).float())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("trained", "new", "sigma"),
    [
        ({"sigma": 0.1}, {"sigma": 0.5}, 0.5),
        ({"sigma": 0.3}, {"sigma": 0.3}, 0.3),
        ("gaussian-learned", {"sigma": 0.2}, 0.2),
        ("gaussian-learned", "gaussian-learned", None),  # that of the trained model
        ("gaussian-optimal", "gaussian-learned", None),
    ],
)
def test_initialized_model_has_the_standard_deviation_of_its_likelihood(tmp_path, trained, new, sigma):
    def gaussian(likelihood):
        name, options = (likelihood, {}) if isinstance(likelihood, str) else ("gaussian", likelihood)
        return replace(QUICK, epochs=1, likelihood=name, options={**QUICK.options, "likelihood": options})

    run = train(gaussian(trained), tmp_path / "run", quiet=True)
    config = replace(gaussian(new), init=str(run))
    dataset = load_dataset(config)
    config = configure(config, dataset)
    model = build(config.model)
    initialization.initialize([model], config, dataset.train)
    weights = load_weights(run)
    expected = weights["likelihood.log_sigma"] if sigma is None else torch.tensor(math.log(sigma))
    torch.testing.assert_close(model.likelihood.log_sigma.detach(), expected)
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("likelihood.")}
    assert others and all(torch.equal(tensor, weights[name]) for name, tensor in others.items())


@pytest.mark.integration
def test_note_names_conditions_of_the_same_number_but_with_other_values(tmp_path):
    run = train(replace(QUICK, epochs=1, limit=100, without=("3",)), tmp_path / "run", quiet=True)
    for without, count in (("4",), 1), (("3",), 0):
        config = replace(QUICK, init=str(run), without=without)
        dataset = load_dataset(config)
        config = configure(config, dataset)
        notes = initialization.initialize([build(config.model)], config, dataset.train)
        assert sum(note.startswith("the conditions are label category of 9 (0, 1, 2, 3, 5") for note in notes) == count


@pytest.mark.integration
@pytest.mark.parametrize(("trained", "new"), [("bernoulli", "gaussian"), ("gaussian", "bernoulli")])
def test_another_likelihood_without_the_same_parameters_does_not_fit(tmp_path, trained, new):
    run = train(replace(QUICK, epochs=1, limit=100, likelihood=trained), tmp_path / "run", quiet=True)
    config = replace(QUICK, init=str(run), likelihood=new)
    dataset = load_dataset(config)
    config = configure(config, dataset)
    with pytest.raises(UsageError, match=f"does not fit this run: likelihood {trained} vs. {new}"):
        initialization.initialize([build(config.model)], config, dataset.train)
