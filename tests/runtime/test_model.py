"""Model: decode, encode and generate, compared with torch and numpy."""

import re
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import onnxruntime as ort
import pytest
import torch
from helpers import SHARED, load_data, needs_mnist
from runtime_helpers import both_kinds, close, cycle_labels, normal, random_images, run_in_torch
from torch import distributions as D
from torch.nn import functional as F

import cvae
from cvae.errors import UsageError
from cvae.runtime import session
from cvae.spec import Spec

# -- decode, encode, generate ------------------------------------------------------------------------------------------


@both_kinds
def test_decode_agrees_with_torch(models, networks, kind):
    noise, label = normal(130), cycle_labels(kind, 130)
    images = models[kind].decode(noise, label)
    assert images.dtype == np.float32 and images.shape == (130, 1, 8, 8) and images.std() > 0.1
    assert close(images, run_in_torch(networks[kind].decode, noise, label))


@both_kinds
def test_encode_agrees_with_torch(models, networks, kind):
    images, label = random_images(130), cycle_labels(kind, 130)
    mean, std = models[kind].encode(images, label)
    expected_mean, expected_std = run_in_torch(networks[kind].encode, images, label)
    assert close(mean, expected_mean) and close(std, expected_std) and (std > 0).all()


@both_kinds
def test_reconstruct_agrees_with_torch(models, networks, kind):
    images, label = random_images(3), cycle_labels(kind, 3)
    code = run_in_torch(networks[kind].encode, images, label)[0]
    assert close(models[kind].reconstruct(images, label), run_in_torch(networks[kind].decode, code, label))


@both_kinds
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_generate_decodes_numpy_noise_for_any_chunk_size(models, kind, chunk, monkeypatch):
    expected = models[kind].decode(normal(130, seed=5), cycle_labels(kind, 130))
    monkeypatch.setattr(session, "CHUNK", chunk)
    assert np.array_equal(models[kind].generate(130, seed=5), expected)


@both_kinds
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65])
def test_first_images_of_a_seed_do_not_depend_on_the_count(models, kind, n):
    assert np.array_equal(models[kind].generate(n, seed=3), models[kind].generate(130, seed=3)[:n])


def test_different_seeds_give_different_images(models):
    images = [models["plain"].generate(4, seed=seed) for seed in (0, 1, None, None)]
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(images) for b in images[:i])


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_is_the_standard_deviation_of_the_noise(models, temperature):
    images = models["plain"].generate(5, seed=4, temperature=temperature)
    assert np.array_equal(images, models["plain"].decode(normal(5, seed=4) * np.float32(temperature)))
    assert (temperature == 0) == all(np.array_equal(image, images[0]) for image in images)


@pytest.mark.parametrize(
    "arguments",
    [{"n": 0}, {"n": -1}, {"temperature": -0.5}, {"temperature": float("nan")}, {"temperature": float("inf")}],
    ids=str,
)
def test_generate_rejects_and_quotes_values_out_of_range(models, arguments):
    with pytest.raises(UsageError, match=str(next(iter(arguments.values())))):
        models["plain"].generate(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 1.5},
        {"temperature": 1e39},
        {"temperature": "hot"},
        *({"n": n} for n in (10**20, 2.5, "2", True, np.True_, [2])),
    ],
    ids=str,
)
def test_generate_names_and_quotes_an_invalid_argument(models, arguments):
    ((name, value),) = arguments.items()
    quoted = repr(value) if isinstance(value, str) else str(value)
    for call in (models["plain"].generate, partial(models["labels"].generate, label=3)):
        with pytest.raises(UsageError, match=f"^{name} is {re.escape(quoted)}: .*$"):
            call(**arguments)


def test_huge_number_of_images_is_rejected_before_memory_is_allocated(models):
    tracemalloc.start()
    for call in (
        lambda: models["labels"].generate(10**15),
        lambda: models["plain"].noise(10**15),
        lambda: models["plain"].interpolate(0, 1, steps=10**15),
    ):
        with pytest.raises(
            UsageError, match=r"is 1000000000000000: at most [\d,]+ fit into this machine's \d+ GiB of memory;"
        ):
            call()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_numpy_integers_are_accepted_as_counts(models):
    assert np.array_equal(models["plain"].generate(np.int64(3), seed=np.uint8(1)), models["plain"].generate(3, seed=1))
    assert models["plain"].interpolate(0, 1, steps=np.int32(3)).shape[0] == 3


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label", ["3", 3, np.int64(3), np.uint8(3), ["3"] * 4, (3, "3", 3, "3"), np.full(4, 3), np.full(4, "3")], ids=repr
)
def test_label_can_be_name_or_number_and_shared_or_per_image(models, networks, label):
    expected = run_in_torch(networks["labels"].decode, normal(4), np.full(4, 3))
    assert close(models["labels"].decode(normal(4), label), expected)
    assert close(models["labels"].generate(4, label=label, seed=0), expected)


def test_list_of_labels_gives_one_image_per_label(models):
    images = models["labels"].generate(label=[3, "5", 3], seed=4)
    assert images.labels == ["3", "5", "3"] and images.seed == 4
    assert np.array_equal(images, models["labels"].decode(normal(3, seed=4), [3, 5, 3]))
    with pytest.raises(UsageError, match="3 labels for 2 images"):
        models["labels"].generate(2, label=[3, 5, 3])
    assert models["labels"].generate(3).labels == ["0", "1", "2"] and models["plain"].generate(3).labels is None


def test_random_seed_of_generated_images_reproduces_them(models):
    images = models["plain"].generate(2)
    assert np.array_equal(images, models["plain"].generate(2, seed=images.seed))


def test_model_has_the_properties_of_its_spec(models):
    model = models["labels"]
    assert (model.classes, model.latent_dim, model.image_shape) == (tuple("0123456789"), 8, (1, 8, 8))
    assert models["plain"].classes is None


@pytest.mark.parametrize("method", ["encode", "reconstruct", "restyle"])
def test_image_without_label_gets_the_class_that_explains_it_best(models, method):
    model, options = models["labels"], {"to": 4} if method == "restyle" else {}
    images = model.generate(label=[7, 1, 7, 4], seed=2)
    nearest = model.nearest_label(images)
    result = getattr(model, method)(images, **options)
    expected = getattr(model, method)(images, label_index=nearest, **options)
    assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))
    assert result.labels == (["4"] * 4 if method == "restyle" else [str(i) for i in nearest])


def test_each_image_can_have_its_own_label(models, networks):
    label = np.array([9, 0, 3, 3])
    images = models["labels"].decode(np.repeat(normal(1), 4, axis=0), label)
    assert close(images, run_in_torch(networks["labels"].decode, np.repeat(normal(1), 4, axis=0), label))
    assert np.array_equal(images[2], images[3]) and np.abs(images[0] - images[1]).max() > 0.1


@pytest.mark.parametrize("label", [-1, 10, "x", "-1", "10", "", [0, -1], [0, 11]], ids=repr)
def test_unknown_label_is_rejected_and_quoted(models, label):
    count = len(label) if isinstance(label, list) else 1
    wrong = label[-1] if isinstance(label, list) else label
    for call in (
        lambda: models["labels"].decode(normal(count), label),
        lambda: models["labels"].generate(count, label=label),
        lambda: models["labels"].encode(random_images(count), label),
    ):
        with pytest.raises(UsageError, match=f"label {wrong!r}.*named 0, 1, 2"):
            call()


def test_number_of_labels_must_equal_number_of_images(models):
    with pytest.raises(UsageError, match="2 labels for 3 images"):
        models["labels"].decode(normal(3), [1, 2])


def test_conditional_model_requires_label_and_unconditional_rejects_it(models):
    with pytest.raises(UsageError, match="has labels"):
        models["labels"].decode(normal(1))
    with pytest.raises(UsageError, match=r"without labels.*'7'"):
        models["plain"].decode(normal(1), "7")
    with pytest.raises(UsageError, match="without labels"):
        models["plain"].nearest_label(random_images(1))


@pytest.mark.parametrize(
    "label",
    [
        [1.7],
        [None],
        [float("nan")],
        "9" * 5000,
    ],
    ids=["fraction", "none", "nan", "5000 digits"],
)
def test_value_that_is_not_a_class_name_is_rejected(models, label):
    with pytest.raises(UsageError):
        models["labels"].generate(1, label=label)


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_nearest_label_minimizes_the_negative_elbo(models, networks, monkeypatch, sigma):
    model = models["labels"]
    monkeypatch.setattr(model._decoder, "spec", Spec(**{**vars(model.spec), "sigma": sigma}))
    images = model.generate(40, seed=0)
    nats = []
    for k in range(10):
        label = np.full(40, k)
        mean, std = run_in_torch(networks["labels"].encode, images, label)
        reconstruction = torch.as_tensor(run_in_torch(networks["labels"].decode, mean, label))
        code, prior = D.Normal(torch.as_tensor(mean), torch.as_tensor(std)), D.Normal(0, 1)
        target = torch.as_tensor(np.asarray(images))
        if sigma is None:
            reconstruction = reconstruction.clamp(2**-24, 1 - 2**-24)  # as in cvae/runtime/density.py
            cost = F.binary_cross_entropy(reconstruction, target, reduction="none")
        else:
            cost = -D.Normal(reconstruction, sigma).log_prob(target)
        nats.append(cost.sum((1, 2, 3)) + D.kl_divergence(code, prior).sum(1))
    nearest = model.nearest_label(images)
    table = np.stack(nats)  # (10, 40)
    # Compare values, not labels: which of two nearly equal values is smaller depends on the processor.
    excess = table[nearest, np.arange(40)] - table.min(axis=0)
    assert excess.max() < 0.01 and len(set(nearest.tolist())) > 3


@pytest.mark.integration
@needs_mnist
def test_default_model_recognizes_digits():
    from cvae.evaluation.generation import subsample

    subset = subsample(load_data("mnist", data_dir=str(SHARED)).test, 200)
    nearest = cvae.load().nearest_label(subset.images.astype(np.float32) / 255)
    assert (nearest == subset.labels).mean() > 0.97


# -- invalid arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise",
    [
        np.zeros(8),
        np.zeros((0, 8)),
        np.zeros((1, 9)),
        np.zeros((1, 8, 1)),
        np.float32(0),
        [[np.nan] * 8],
        [[np.inf] * 8],
    ],
    ids=lambda noise: str(np.shape(noise)),
)
def test_noise_must_be_finite_and_have_the_right_shape(models, noise):
    with pytest.raises(UsageError, match=r"not finite|should be \(N, 8\)"):
        models["plain"].decode(noise)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 9)),
        np.zeros((8, 8, 3)),
        np.zeros((0, 1, 8, 8)),
        np.zeros((1, 3, 8, 8)),
        np.full((1, 1, 8, 8), np.nan),
    ],
    ids=lambda images: str(images.shape),
)
def test_images_must_be_finite_and_have_the_right_shape(models, images):
    with pytest.raises(UsageError, match=r"not finite|should be \(N, 1, 8, 8\)"):
        models["plain"].encode(images)


def test_images_outside_0_to_1_are_rejected(models):
    with pytest.raises(UsageError):
        models["plain"].encode(np.full((1, 1, 8, 8), 255))


def test_lists_and_other_float_types_are_accepted(models):
    expected = models["plain"].decode(normal(2))
    assert np.array_equal(models["plain"].decode(normal(2).tolist()), expected)
    assert np.array_equal(models["plain"].decode(np.asfortranarray(normal(2), dtype=np.float64)), expected)


def test_sixteen_threads_get_the_same_results_as_one(trained, models, monkeypatch):
    shared = cvae.load(trained["labels"])
    real, sessions = ort.InferenceSession, []

    def slow(*args, **kwargs):
        sessions.append(args)
        time.sleep(0.05)  # long enough for a second thread to find no encoder either
        return real(*args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", slow)

    def work(model: cvae.Model, seed: int) -> np.ndarray:
        return model.reconstruct(model.generate(70, seed=seed), np.arange(70) % 10)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda seed: work(shared, seed), range(32)))
    assert len(sessions) == 1
    assert all(np.array_equal(result, work(models["labels"], seed)) for seed, result in enumerate(results))


def test_repr_describes_the_model(models):
    assert repr(models["labels"]) == "<cvae.Model labels: mlp, 1x8x8, latent 8, 10 classes>"
    assert repr(models["plain"]) == "<cvae.Model plain: mlp, 1x8x8, latent 8, no labels>"
