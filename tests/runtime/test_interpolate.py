"""`Model.interpolate` between seeds, codes and images, with and without labels, compared with torch."""

import numpy as np
import pytest
from runtime_helpers import close, normal, random_images, run_in_torch

from cvae.errors import UsageError


@pytest.mark.parametrize("mode", ["slerp", "lerp"])
@pytest.mark.parametrize("ends", ["seeds", "codes", "images"])
@pytest.mark.parametrize(("kind", "label"), [("plain", None), ("labels", "4"), ("labels", (4, "9"))], ids=str)
def test_interpolation_starts_and_ends_at_its_endpoints(models, networks, kind, label, ends, mode):
    first, last = label if isinstance(label, tuple) else (label, label)
    labels = None if label is None else np.array([int(first), int(last)])
    images = random_images(2)
    a, b, code = {
        "seeds": (7, 9, np.concatenate([normal(1, 7), normal(1, 9)])),
        "codes": (*normal(2, 3), normal(2, 3)),
        "images": (*images, run_in_torch(networks[kind].encode, images, labels)[0]),
    }[ends]
    path = models[kind].interpolate(a, b, 5, label, mode)
    assert path.shape == (5, 1, 8, 8)
    assert close(path[[0, -1]], run_in_torch(networks[kind].decode, code, labels))
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(path[1:], path[:-1], strict=True))


def test_image_between_two_labels_is_the_weighted_mean_of_its_two_decodings(models, networks):
    a, b = normal(2)
    path = models["labels"].interpolate(a, b, 5, (3, 8), "lerp")
    code = (0.75 * a + 0.25 * b)[None]
    decoded = [run_in_torch(networks["labels"].decode, code, np.array([label]))[0] for label in (3, 8)]
    assert np.allclose(path[1], 0.75 * decoded[0] + 0.25 * decoded[1], atol=1e-5)


def test_lerp_and_slerp_differ_between_the_ends(models):
    a, b = models["plain"].interpolate(0, 1, 3, mode="slerp"), models["plain"].interpolate(0, 1, 3, mode="lerp")
    assert np.abs(a[1] - b[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("plain", {"steps": 1}, "steps is 1"),
        *(("plain", {"steps": steps}, f"steps is {steps!r}") for steps in (2.5, "2", True, None, 10**20)),
        ("plain", {"mode": "foo"}, "'foo'.*'slerp'.*'lerp'"),
        ("plain", {"label": 3}, "without labels.*3"),
        ("plain", {"a": np.zeros(9)}, r"\(1, 9\).*\(N, 8\)"),
        ("plain", {"a": np.zeros((8, 9))}, r"\(8, 9\).*\(N, 1, 8, 8\)"),
        ("plain", {"a": np.zeros((2, 8, 8))}, "2 images .* one end"),
        ("labels", {}, "has labels"),
        ("labels", {"label": (3, 10)}, "10"),
        ("labels", {"label": (1, 2, 3)}, "label"),
    ],
    ids=str,
)
def test_interpolate_rejects_invalid_arguments(models, kind, arguments, words):
    with pytest.raises(UsageError, match=words):
        models[kind].interpolate(**{"a": 0, "b": 1, **arguments})


def test_interpolation_without_label_uses_the_best_fitting_class_of_each_image(models):
    model = models["labels"]
    a, b = model.generate(label=[7, 1], seed=2)
    first, last = (int(i) for i in model.nearest_label([a, b]))
    path = model.interpolate(a, b, 3)
    assert np.array_equal(path, model.interpolate(a, b, 3, label_index=(first, last)))
    assert path.labels == ([str(first)] * 3 if first == last else None)
    assert model.interpolate(a, 5, 3).labels == [str(first)] * 3  # the seed gets the class of the image
