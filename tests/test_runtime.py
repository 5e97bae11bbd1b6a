"""The torch-free runtime against torch, numpy, Pillow and the onnx package."""

import base64
import io
import json
import re
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import SHARED, edit_output, load, needs_mnist
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from torch import distributions as D
from torch.nn import functional as F

import cvae
from cvae import imaging
from cvae.engine import load_model
from cvae.errors import CvaeError, UsageError
from cvae.imaging import lerp, slerp
from cvae.imaging.terminal import inline
from cvae.runtime import session
from cvae.runtime.scan import protobuf
from cvae.spec import KEY, Spec

DECODER, ENCODER = "decoder.onnx", "encoder.onnx"
both_kinds = pytest.mark.parametrize("kind", ["labels", "plain"])
quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def models(trained) -> dict[str, cvae.Model]:
    return {kind: cvae.load(run) for kind, run in trained.items()}


@pytest.fixture(scope="module")
def networks(trained):
    return {kind: load_model(run)[0] for kind, run in trained.items()}


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run with labels, to spoil."""
    return Path(shutil.copytree(trained["labels"], tmp_path / "run"))


def turns(kind: str, n: int) -> np.ndarray | None:
    return np.arange(n) % 10 if kind == "labels" else None


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


def some_images(n: int) -> np.ndarray:
    return np.random.default_rng(1).random((n, 1, 8, 8), dtype=np.float32)


def in_torch(method, array: np.ndarray, label: np.ndarray | None):
    with torch.inference_mode():
        result = method(torch.from_numpy(array), None if label is None else torch.from_numpy(label))
    return tuple(part.numpy() for part in result) if isinstance(result, tuple) else result.numpy()


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-5)


# -- decode, encode, generate ------------------------------------------------------------------------------------------


@both_kinds
def test_decode_is_torchs(models, networks, kind):
    noise, label = normal(130), turns(kind, 130)
    images = models[kind].decode(noise, label)
    assert images.dtype == np.float32 and images.shape == (130, 1, 8, 8) and images.std() > 0.1
    assert close(images, in_torch(networks[kind].decode, noise, label))


@both_kinds
def test_encode_is_torchs(models, networks, kind):
    images, label = some_images(130), turns(kind, 130)
    mean, std = models[kind].encode(images, label)
    expected_mean, expected_std = in_torch(networks[kind].encode, images, label)
    assert close(mean, expected_mean) and close(std, expected_std) and (std > 0).all()


@both_kinds
def test_reconstruct_is_torchs(models, networks, kind):
    images, label = some_images(3), turns(kind, 3)
    code = in_torch(networks[kind].encode, images, label)[0]
    assert close(models[kind].reconstruct(images, label), in_torch(networks[kind].decode, code, label))


@both_kinds
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_generate_decodes_numpys_noise_whatever_the_chunk(models, kind, chunk, monkeypatch):
    expected = models[kind].decode(normal(130, seed=5), turns(kind, 130))
    monkeypatch.setattr(session, "CHUNK", chunk)
    assert np.array_equal(models[kind].generate(130, seed=5), expected)


@both_kinds
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65])
def test_the_first_images_of_a_seed_are_the_same_whatever_the_number(models, kind, n):
    assert np.array_equal(models[kind].generate(n, seed=3), models[kind].generate(130, seed=3)[:n])


def test_another_seed_and_no_seed_give_other_images(models):
    draws = [models["plain"].generate(4, seed=seed) for seed in (0, 1, None, None)]
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_is_the_standard_deviation_of_the_noise(models, temperature):
    drawn = models["plain"].generate(5, seed=4, temperature=temperature)
    assert np.array_equal(drawn, models["plain"].decode(normal(5, seed=4) * np.float32(temperature)))
    assert (temperature == 0) == all(np.array_equal(image, drawn[0]) for image in drawn)


@pytest.mark.parametrize(
    "arguments",
    [{"n": 0}, {"n": -1}, {"temperature": -0.5}, {"temperature": float("nan")}, {"temperature": float("inf")}],
    ids=str,
)
def test_generate_refuses_what_is_out_of_range_and_quotes_it(models, arguments):
    with pytest.raises(UsageError, match=str(next(iter(arguments.values())))):
        models["plain"].generate(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 1.5},
        {"temperature": 1e39},
        {"temperature": "hot"},
        *({"n": n} for n in (10**20, 2.5, "2", True, np.True_, None, [2])),
    ],
    ids=str,
)
def test_generate_refuses_what_numpy_would_refuse(models, arguments):
    ((name, value),) = arguments.items()
    quoted = repr(value) if isinstance(value, str) else str(value)
    for call in (models["plain"].generate, partial(models["labels"].generate, label=3)):
        with pytest.raises(UsageError, match=f"^{name} is {re.escape(quoted)}: .*$"):
            call(**arguments)


def test_a_huge_number_of_images_is_refused_before_memory_is_asked_for(models):
    tracemalloc.start()
    for call in (
        lambda: models["labels"].generate(10**15),
        lambda: models["plain"].noise(10**15),
        lambda: models["plain"].interpolate(0, 1, steps=10**15),
    ):
        with pytest.raises(
            UsageError, match=r"is 1000000000000000: at most [\d,]+ fit into the \d+ GiB of memory of this machine;"
        ):
            call()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_numbers_of_numpy_count_images(models):
    assert np.array_equal(models["plain"].generate(np.int64(3), seed=np.uint8(1)), models["plain"].generate(3, seed=1))
    assert models["plain"].interpolate(0, 1, steps=np.int32(3)).shape[0] == 3


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label", ["3", 3, np.int64(3), np.uint8(3), ["3"] * 4, (3, "3", 3, "3"), np.full(4, 3), np.full(4, "3")], ids=repr
)
def test_a_label_goes_by_name_or_number_for_one_or_each(models, networks, label):
    expected = in_torch(networks["labels"].decode, normal(4), np.full(4, 3))
    assert close(models["labels"].decode(normal(4), label), expected)
    assert close(models["labels"].generate(4, label=label, seed=0), expected)


def test_each_image_has_its_own_label(models, networks):
    label = np.array([9, 0, 3, 3])
    images = models["labels"].decode(np.repeat(normal(1), 4, axis=0), label)
    assert close(images, in_torch(networks["labels"].decode, np.repeat(normal(1), 4, axis=0), label))
    assert np.array_equal(images[2], images[3]) and np.abs(images[0] - images[1]).max() > 0.1


@pytest.mark.parametrize("label", [-1, 10, "x", "-1", "10", "", [0, -1], [0, 11]], ids=repr)
def test_a_label_that_is_none_is_refused_and_quoted(models, label):
    count = len(label) if isinstance(label, list) else 1
    wrong = label[-1] if isinstance(label, list) else label
    for call in (
        lambda: models["labels"].decode(normal(count), label),
        lambda: models["labels"].generate(count, label=label),
        lambda: models["labels"].encode(some_images(count), label),
    ):
        with pytest.raises(UsageError, match=f"label {wrong!r}.*named 0, 1, 2"):
            call()


def test_labels_must_be_as_many_as_images(models):
    with pytest.raises(UsageError, match="2 labels for 3 images"):
        models["labels"].decode(normal(3), [1, 2])


def test_a_model_with_labels_needs_one_and_one_without_takes_none(models):
    with pytest.raises(UsageError, match="has labels"):
        models["labels"].decode(normal(1))
    with pytest.raises(UsageError, match=r"without labels.*'7'"):
        models["plain"].decode(normal(1), "7")
    with pytest.raises(UsageError, match="without labels"):
        models["plain"].nearest_label(some_images(1))


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
def test_a_label_that_equals_no_name_is_refused(models, label):
    with pytest.raises(UsageError):
        models["labels"].generate(1, label=label)


def spec_with(**changes) -> Spec:
    fields = {
        "role": "decoder",
        "name": "some",
        "architecture": "mlp",
        "image_shape": (1, 8, 8),
        "latent_dim": 8,
        "classes": ("5", "7"),
        "likelihood": "bernoulli",
        "prior": "normal",
        "data": "digits",
        "data_terms": "free",
        "weights": "0" * 64,
    }
    return Spec(**{**fields, **changes})


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_nearest_label_takes_the_fewest_nats(models, networks, monkeypatch, sigma):
    model = models["labels"]
    monkeypatch.setattr(model._decoder, "spec", Spec(**{**vars(model.spec), "sigma": sigma}))
    images = model.generate(40, seed=0)
    nats = []
    for k in range(10):
        label = np.full(40, k)
        mean, std = in_torch(networks["labels"].encode, images, label)
        again = torch.as_tensor(in_torch(networks["labels"].decode, mean, label))
        code, prior = D.Normal(torch.as_tensor(mean), torch.as_tensor(std)), D.Normal(0, 1)
        target = torch.as_tensor(np.asarray(images))
        if sigma is None:
            again = again.clamp(2**-24, 1 - 2**-24)  # an exact 0 or 1 counts as what float32 leaves beside it
            cost = F.binary_cross_entropy(again, target, reduction="none")
        else:
            cost = -D.Normal(again, sigma).log_prob(target)
        nats.append(cost.sum((1, 2, 3)) + D.kl_divergence(code, prior).sum(1))
    nearest = model.nearest_label(images)
    table = np.stack(nats)  # (10, 40)
    # Compare values, not labels: which of two nearly equal values is less depends on the processor.
    excess = table[nearest, np.arange(40)] - table.min(axis=0)
    assert excess.max() < 0.01 and len(set(nearest.tolist())) > 3


@needs_mnist
def test_the_models_of_the_package_tell_digits_apart():
    from cvae.evaluation.evaluate import subsample

    part = subsample(load("mnist", data_dir=str(SHARED)).test, 200)
    nearest = cvae.load().nearest_label(part.images.astype(np.float32) / 255)
    assert (nearest == part.labels).mean() > 0.97


# -- interpolation -----------------------------------------------------------------------------------------------------

codes = st.integers(0, 10_000).map(lambda seed: normal(2, seed))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@quick
@given(codes, st.integers(2, 20))
def test_slerp_goes_at_an_even_pace_along_the_sphere(ends, steps):
    a, b = map(unit, ends)
    path = slerp(a, b, np.linspace(0, 1, steps, dtype=np.float32)[:, None])
    assert path.dtype == np.float32
    assert np.allclose(path[[0, -1]], [a, b], atol=1e-5)
    assert np.allclose(np.linalg.norm(path, axis=1), 1, atol=1e-5)
    paces = (path[1:] * path[:-1]).sum(1)  # cosines of the angles between neighbours
    assert np.allclose(paces, np.cos(np.arccos(float(a @ b)) / (steps - 1)), atol=1e-4)


@quick
@given(codes, st.floats(0, 1, width=32))
def test_lerp_is_the_straight_line(ends, t):
    a, b = ends
    path = lerp(a, b, np.float32([[0], [t], [1]]))
    assert np.array_equal(path[[0, 2]], ends)
    assert np.allclose(path[1], [x + t * (y - x) for x, y in zip(a, b, strict=True)], atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_between_vectors_on_one_line_goes_straight(factor):
    a = normal(1)[0]
    path = slerp(a, factor * a, np.float32([[0], [0.5], [1]]))
    assert np.allclose(path, np.array([[1], [(1 + factor) / 2], [factor]]) * a, atol=1e-5)


@pytest.mark.parametrize("mode", ["slerp", "lerp"])
@pytest.mark.parametrize("ends", ["seeds", "codes", "images"])
@pytest.mark.parametrize(("kind", "label"), [("plain", None), ("labels", "4"), ("labels", (4, "9"))], ids=str)
def test_interpolation_starts_and_ends_at_its_ends(models, networks, kind, label, ends, mode):
    first, last = label if isinstance(label, tuple) else (label, label)
    labels = None if label is None else np.array([int(first), int(last)])
    images = some_images(2)
    a, b, code = {
        "seeds": (7, 9, np.concatenate([normal(1, 7), normal(1, 9)])),
        "codes": (*normal(2, 3), normal(2, 3)),
        "images": (*images, in_torch(networks[kind].encode, images, labels)[0]),
    }[ends]
    path = models[kind].interpolate(a, b, 5, label, mode)
    assert path.shape == (5, 1, 8, 8)
    assert close(path[[0, -1]], in_torch(networks[kind].decode, code, labels))
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(path[1:], path[:-1], strict=True))


def test_between_two_labels_a_picture_is_the_mean_by_the_way_gone(models, networks):
    a, b = normal(2)
    path = models["labels"].interpolate(a, b, 5, (3, 8), "lerp")
    code = (0.75 * a + 0.25 * b)[None]
    decoded = [in_torch(networks["labels"].decode, code, np.array([label]))[0] for label in (3, 8)]
    assert np.allclose(path[1], 0.75 * decoded[0] + 0.25 * decoded[1], atol=1e-5)


def test_the_modes_differ_between_the_ends(models):
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
        ("plain", {"a": np.zeros((8, 8))}, r"\(1, 8, 8\).*\(N, 1, 8, 8\)"),
        ("labels", {}, "has labels"),
        ("labels", {"label": (3, 10)}, "10"),
        ("labels", {"label": (1, 2, 3)}, "label"),
    ],
    ids=str,
)
def test_interpolate_refuses_what_does_not_fit(models, kind, arguments, words):
    with pytest.raises(UsageError, match=words):
        models[kind].interpolate(**{"a": 0, "b": 1, **arguments})


# -- arrays that do not fit --------------------------------------------------------------------------------------------


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
def test_noise_of_a_wrong_shape_or_not_finite_is_refused(models, noise):
    with pytest.raises(UsageError, match=r"not finite|should be \(N, 8\)"):
        models["plain"].decode(noise)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 8)),
        np.zeros((1, 8, 8)),
        np.zeros((0, 1, 8, 8)),
        np.zeros((1, 3, 8, 8)),
        np.full((1, 1, 8, 8), np.nan),
    ],
    ids=lambda images: str(images.shape),
)
def test_images_of_a_wrong_shape_or_not_finite_are_refused(models, images):
    with pytest.raises(UsageError, match=r"not finite|should be \(N, 1, 8, 8\)"):
        models["plain"].encode(images)


def test_images_beyond_0_to_1_are_refused(models):
    with pytest.raises(UsageError):
        models["plain"].encode(np.full((1, 1, 8, 8), 255))


def test_lists_and_other_float_types_are_taken(models):
    expected = models["plain"].decode(normal(2))
    assert np.array_equal(models["plain"].decode(normal(2).tolist()), expected)
    assert np.array_equal(models["plain"].decode(np.asfortranarray(normal(2), dtype=np.float64)), expected)


# -- files and sessions ------------------------------------------------------------------------------------------------


@both_kinds
def test_batches_are_filled_up_to_few_sizes_where_each_size_costs(models, trained, kind, monkeypatch):
    expected = models[kind].generate(150, seed=5)
    model = cvae.load(trained[kind])
    decoder, seen = model._decoder, []
    real = decoder._session

    class Watched:
        def run(self, names, inputs):
            seen.append({len(value) for value in inputs.values()})
            return real.run(names, inputs)

    monkeypatch.setattr(decoder, "_session", Watched())
    monkeypatch.setattr(decoder, "_batches", session.BATCHES)  # as on a GPU
    assert np.array_equal(model.generate(150, seed=5), expected)
    assert [model.generate(n, seed=5).shape[0] for n in (1, 3, 17)] == [1, 3, 17]
    assert seen == [{64}, {64}, {64}, {1}, {4}, {64}]
    monkeypatch.setattr(decoder, "_max_batch", 5)  # what memory allows comes first
    assert np.array_equal(model.generate(150, seed=5), expected)
    assert seen[6:] == [{5}] * 30


def test_sixteen_threads_get_what_one_gets(trained, models, monkeypatch):
    shared = cvae.load(trained["labels"])
    real, made = ort.InferenceSession, []

    def slow(*args, **kwargs):
        made.append(args)
        time.sleep(0.05)  # long enough for a second thread to find no encoder either
        return real(*args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", slow)

    def work(model: cvae.Model, seed: int) -> np.ndarray:
        return model.reconstruct(model.generate(70, seed=seed), np.arange(70) % 10)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda seed: work(shared, seed), range(32)))
    assert len(made) == 1
    assert all(np.array_equal(result, work(models["labels"], seed)) for seed, result in enumerate(results))


def test_a_decoder_alone_generates_and_the_missing_encoder_names_the_export(run):
    encoder = (run / ENCODER).read_bytes()
    (run / ENCODER).unlink()
    for path in (run, run / DECODER):
        model = cvae.load(path)
        assert model.generate(1, label=3).shape == (1, 1, 8, 8)
        with pytest.raises(CvaeError, match=r"cvae export onnx .*run"):
            model.encode(some_images(1), 3)
    (run / ENCODER).write_bytes(encoder)  # looked for when it is needed, not before
    assert model.encode(some_images(1), 3)[0].shape == (1, 8)


def test_a_run_that_was_not_exported_names_the_export(run):
    (run / DECODER).unlink()
    with pytest.raises(CvaeError, match=r"cvae export onnx .*run"):
        cvae.load(run)


def test_the_encoder_of_another_model_is_refused(run, trained):
    shutil.copy(trained["plain"] / ENCODER, run)
    with pytest.raises(UsageError, match=r"encoder\.onnx.*other weights, those of 'plain'"):
        cvae.load(run).encode(some_images(1), 3)


def test_an_encoder_is_no_decoder(trained):
    with pytest.raises(UsageError, match=r"encoder\.onnx.*decoder is needed"):
        cvae.load(trained["plain"] / ENCODER)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA here")
def test_cuda_that_is_not_there_names_the_two_pip_lines(trained):
    with pytest.raises(UsageError, match=r"'cuda'.*pip uninstall -y onnxruntime.*pip install 'onnxruntime-gpu"):
        cvae.load(trained["plain"], device="cuda")


@pytest.fixture(params=["it falls back", "it raises"])
def no_start(request, monkeypatch):
    """An onnxruntime that lists CUDA and ROCm, of which none starts."""
    real = ort.InferenceSession

    def start(data, options, *, providers, **other):
        if providers != ["CPUExecutionProvider"] and request.param == "it raises":
            raise RuntimeError("libcudnn.so.9 is not there")
        return real(data, options, providers=["CPUExecutionProvider"], **other)

    listed = ["CUDAExecutionProvider", "ROCMExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    monkeypatch.setattr(ort, "InferenceSession", start)
    return request.param


@pytest.mark.parametrize(
    ("device", "fix"),
    [("cuda", "NVIDIA driver.*CUDA and cuDNN"), ("ROCMExecutionProvider", "execution-providers")],
)
def test_a_device_that_does_not_start_is_an_error(trained, no_start, device, fix):
    words = fix if no_start == "it falls back" else "libcudnn"
    with pytest.raises(CvaeError, match=f"(CUDA|ROCM)ExecutionProvider.*{words}") as caught:
        cvae.load(trained["plain"], device=device)
    assert "pip uninstall" not in str(caught.value), "the package is the right one"


def test_auto_takes_the_cpu_where_cuda_does_not_start(trained, models, no_start):
    model = cvae.load(trained["plain"], device="auto")
    assert model._decoder.provider == "CPUExecutionProvider"
    assert close(model.generate(3, seed=1), models["plain"].generate(3, seed=1))


def test_an_unknown_device_is_refused_with_the_known_ones(trained):
    with pytest.raises(UsageError, match=r"'tpu'.*cpu.*CPUExecutionProvider"):
        cvae.load(trained["plain"], device="tpu")


@pytest.mark.parametrize("options", [{"device": "auto"}, {"device": "CPUExecutionProvider"}, {"threads": 1}], ids=str)
def test_options_do_not_change_the_images(trained, models, options):
    other = cvae.load(trained["plain"], arena=True, spinning=True, **options)
    assert close(other.generate(9, seed=1), models["plain"].generate(9, seed=1))


def test_a_file_above_the_cap_is_not_read(trained, monkeypatch):
    monkeypatch.setattr(session, "MAX_BYTES", 2**16)
    with pytest.raises(CvaeError, match=r"decoder\.onnx.*larger"):
        cvae.load(trained["plain"])


def test_repr_says_what_it_is(models):
    assert repr(models["labels"]) == "<cvae.Model labels: mlp, 1x8x8, latent 8, 10 classes>"
    assert repr(models["plain"]) == "<cvae.Model plain: mlp, 1x8x8, latent 8, no labels>"


def test_a_name_finds_the_run_of_that_name(trained, in_tmp, models):
    shutil.copytree(trained["plain"], "runs/first")
    assert np.array_equal(cvae.load("first").generate(2, seed=0), models["plain"].generate(2, seed=0))
    with pytest.raises(UsageError, match=r"'frist'.*'first'"):
        cvae.load("frist")


# -- what a file says of itself ----------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=12)
agreements = st.fixed_dictionaries(
    {},
    optional={
        "max_abs_difference": st.floats(0, 1),
        "batches": st.lists(st.integers(1, 64), max_size=4),
        "weights": st.just("float16"),
    },
)
specs = st.builds(
    Spec,
    role=st.sampled_from(["decoder", "encoder"]),
    name=words,
    architecture=words,
    image_shape=st.tuples(*[st.integers(1, 4096)] * 3),
    latent_dim=st.integers(1, 65536),
    classes=st.none() | st.lists(words, min_size=1, max_size=5, unique=True).map(tuple),
    likelihood=words,
    prior=words,
    data=words,
    data_terms=words,
    agreement=agreements,
    license=words,
    weights=words,
    producer=words,
)


@quick
@given(specs)
def test_a_spec_survives_json(spec):
    assert Spec.from_json(spec.to_json(), "here") == spec
    assert json.loads(spec.to_json())["format"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2.*upgrade cvae-onnx"),
        ({"format": None}, "format None"),
        ({"latent": 3}, "'latent'.*'latent_dim'"),
        ({"latent_dim": "8"}, "latent_dim.*'8'"),
        ({"latent_dim": 0}, "latent_dim 0"),
        ({"latent_dim": True}, "latent_dim.*True"),
        ({"image_shape": [1, 8]}, r"\[1, 8\]"),
        ({"image_shape": [1, 8, -8]}, "-8"),
        ({"role": "other"}, "'other'"),
        ({"classes": []}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": ["cat", "dog", "cat"]}, "classes has 'cat' more than once"),
        *(({"name": f"a{character}b"}, "control characters") for character in "\x1b\n\u202e\u2066\u2028\ud800"),
        ({"classes": ["a", "\udfff"]}, "control characters"),
        ({"agreement": {"max_abs_difference": "\x1b[2J"}}, "agreement has an invalid 'max_abs_difference'"),
        ({"agreement": {"max_abs_difference": True}}, "agreement has an invalid 'max_abs_difference': True"),
        ({"agreement": {"batches": ["\x1b[2J"]}}, "agreement has an invalid 'batches'"),
        ({"agreement": {"batches": {"a": 1}}}, "agreement has an invalid 'batches'"),
        ({"agreement": {"weights": ["float16"]}}, "agreement has an invalid 'weights'"),
        ({"agreement": {"\x1b[2J": 1}}, "agreement has an invalid"),
    ],
    ids=str,
)
def test_a_spec_that_is_newer_or_wrong_is_refused(changes, words):
    text = json.dumps({**json.loads(spec_with().to_json()), **changes})
    with pytest.raises(CvaeError, match=f"'some-file'.*{words}") as caught:
        Spec.from_json(text, "some-file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000], ids=lambda text: text[:4] or "empty")
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(CvaeError, match="'some-file' has no valid cvae spec"):
        Spec.from_json(text, "some-file")


def respecced(path: Path, **changes) -> None:
    """Change what a file says of itself, not what it is."""
    model = onnx.load(path)
    (entry,) = [p for p in model.metadata_props if p.key == KEY]
    entry.value = json.dumps({**json.loads(entry.value), **changes})
    onnx.save(model, path)


@pytest.mark.parametrize(
    "changes",
    [{"latent_dim": 9}, {"image_shape": [1, 8, 9]}, {"image_shape": [3, 8, 8]}, {"classes": None}],
    ids=str,
)
def test_a_file_that_contradicts_its_spec_is_refused(run, changes):
    respecced(run / DECODER)
    assert cvae.load(run).generate(1, label=0).shape == (1, 1, 8, 8)
    respecced(run / DECODER, **changes)
    with pytest.raises(CvaeError, match=r"decoder\.onnx.*contradicts"):
        cvae.load(run)


# -- the walk over protobuf --------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("file", [DECODER, ENCODER])
def test_the_walk_reads_a_file_as_the_onnx_package_does(trained, kind, file):
    data = (trained[kind] / file).read_bytes()
    model = onnx.load_from_string(data)
    assert protobuf.metadata(data, file) == {p.key: p.value for p in model.metadata_props}
    found = list(protobuf.fields(memoryview(data)))
    assert {number for number, _, _ in found} == {field.number for field, _ in model.ListFields()}
    (graph,) = [value for number, _, value in found if number == onnx.ModelProto.GRAPH_FIELD_NUMBER]
    assert onnx.GraphProto.FromString(bytes(graph)) == model.graph


keys_and_values = st.lists(st.fixed_dictionaries({}, optional={"key": words, "value": words}), max_size=5)


@quick
@given(keys_and_values, st.integers(-(2**63), 2**63 - 1), words, st.integers(0, 300))
def test_the_walk_reads_any_metadata_and_no_part_of_a_field(entries, version, text, length):
    props = [onnx.StringStringEntryProto(**entry) for entry in entries]
    model = onnx.ModelProto(ir_version=version, model_version=version, producer_name=text, metadata_props=props)
    data = model.SerializeToString()
    assert protobuf.metadata(data, "file") == {prop.key: prop.value for prop in model.metadata_props}
    found = list(protobuf.fields(memoryview(data)))
    try:
        cut = list(protobuf.fields(memoryview(data[:length])))
    except ValueError:
        assert length < len(data)
    else:
        assert cut == found[: len(cut)] and (length < len(data) or cut == found)


@quick
@given(st.binary(max_size=200))
def test_the_walk_over_any_bytes_ends_in_entries_or_a_cvae_error(data):
    try:
        assert isinstance(protobuf.metadata(data, "some-file"), dict)
    except CvaeError as error:
        assert "'some-file'" in str(error)


def test_a_file_cut_off_anywhere_is_refused(trained, tmp_path):
    data, path = (trained["labels"] / DECODER).read_bytes(), tmp_path / "cut.onnx"
    for length in [*range(0, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CvaeError, match=r"cut\.onnx"):
            cvae.load(path)


def test_a_file_with_a_wrong_byte_is_loaded_or_refused(trained, tmp_path):
    data, path = (trained["labels"] / DECODER).read_bytes(), tmp_path / "wrong.onnx"
    refused = 0
    for position in range(0, 2000, 13):  # the nodes; weights follow
        path.write_bytes(data[:position] + b"\xff" + data[position + 1 :])
        try:
            cvae.load(path)
        except CvaeError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20


def refused_in_silence(path: Path, data: bytes, capfd) -> None:
    path.write_bytes(data)
    with pytest.raises(CvaeError, match=path.name):
        cvae.load(path)
    assert capfd.readouterr() == ("", "")


def test_a_dimension_whose_name_is_no_text_is_refused(trained, tmp_path, capfd):
    data = (trained["labels"] / DECODER).read_bytes()
    refused_in_silence(tmp_path / "wrong.onnx", data.replace(b"\x05batch", b"\x05b\xc0tch"), capfd)


def test_an_operator_whose_name_is_no_text_is_refused(trained, tmp_path, capfd):
    data = (trained["labels"] / DECODER).read_bytes()
    name = onnx.load_from_string(data).graph.node[0].op_type.encode()
    refused_in_silence(tmp_path / "wrong.onnx", data.replace(name, b"\xff" * len(name)), capfd)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_bytes_are_rounded_and_clipped():
    exact = np.arange(256) / 255
    assert imaging.to_uint8(exact).tolist() == list(range(256))
    assert imaging.to_uint8(exact[1:] - 0.4 / 255).tolist() == list(range(1, 256))
    assert imaging.to_uint8(np.float32([-1, 2])).tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 3), (1, 1, 8, 8)], ids=str)
def test_an_array_of_another_shape_is_no_picture(shape):
    with pytest.raises(UsageError, match=re.escape(str(shape))):
        imaging.to_pil(np.zeros(shape))


@pytest.mark.parametrize("side", [8, 28, 56])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "across", "down"), [(6, 3, 3, 2), (10, None, 4, 3), (1, 5, 1, 1)])
def test_a_grid_shows_each_image_in_its_place(count, columns, across, down, channels, side):
    images = np.random.default_rng(0).random((count, channels, side, side))
    sheet = imaging.grid(images, columns)
    width, height = sheet.size
    gap = (width - across * side) // max(1, across - 1)
    assert (width, height) == (across * (side + gap) - gap, down * (side + gap) - gap)
    assert across == 1 or 1 <= gap <= side / 8
    for i, image in enumerate(images):
        left, top = i % across * (side + gap), i // across * (side + gap)
        panel = np.asarray(sheet.crop((left, top, left + side, top + side)))
        assert np.abs(panel.reshape(side, side, channels) - image.transpose(1, 2, 0) * 255).max() <= 0.5001


@pytest.mark.parametrize(
    ("size", "factor"),
    [((8, 8), 35), ((26, 8), 12), ((279, 3), 4), ((280, 280), 1), ((300, 20), 4), ((318, 28), 4), ((2000, 20), 1)],
)
def test_a_small_picture_and_a_thin_strip_are_enlarged_by_a_whole_factor(size, factor, monkeypatch):
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)
    pixels = np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8)
    large = np.asarray(imaging.enlarge(Image.fromarray(pixels)))
    assert np.array_equal(large, np.kron(pixels, np.ones((factor, factor), np.uint8)))


@pytest.mark.parametrize("ending", [".png", ".PNG", ".bmp", ".tif", ".webp", ".gif", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_picture_is_read_again(tmp_path, ending, channels):
    ramp = np.linspace(0, 1, 16 * 16).reshape(1, 16, 16).repeat(channels, axis=0).astype(np.float32)
    path = tmp_path / f"new folder/ramp{ending}"
    imaging.save(imaging.to_pil(ramp), path)
    again = imaging.read(path, (channels, 16, 16))
    assert again.dtype == np.float32 and again.shape == ramp.shape
    exact = ending not in (".jpg", ".webp") and not (ending == ".gif" and channels == 3)
    assert np.abs(again - ramp).max() <= (0.5 / 255 + 1e-6 if exact else 0.05)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["x.foo", "x", "x.mp4", "png"])
def test_a_picture_of_unknown_ending_is_not_written(in_tmp, name):
    with pytest.raises(UsageError, match=rf"'{name}'.*\.png"):
        imaging.save(Image.new("L", (8, 8)), name)
    assert not list(in_tmp.iterdir())


def truth(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture of a mode, and what is to be seen, RGB (8, 8, 3)."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rgb[0, :2] = [[0], [255]]
    grey = rgb[..., :1].repeat(3, axis=2)
    alpha = np.random.default_rng(1).integers(0, 256, (8, 8, 1), dtype=np.uint8)

    def on_white(colours: np.ndarray) -> np.ndarray:
        return (colours * (alpha / 255) + 255 * (1 - alpha / 255)).round()

    if mode == "1":
        return Image.fromarray(grey[..., 0] > 127), (grey > 127) * 255
    if mode == "L":
        return Image.fromarray(grey[..., 0]), grey
    if mode == "I;16":
        return Image.fromarray(grey[..., 0].astype(np.uint16) * 257), grey
    if mode == "LA":
        return Image.fromarray(np.concatenate([grey[..., :1], alpha], axis=2), "LA"), on_white(grey)
    if mode == "RGBA":
        return Image.fromarray(np.concatenate([rgb, alpha], axis=2)), on_white(rgb)
    if mode == "P":
        indexed = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
        indexed.putpalette(rgb.tobytes())
        return indexed, rgb
    if mode == "CMYK":
        ink = np.concatenate([255 - rgb, np.zeros((8, 8, 1), np.uint8)], axis=2)
        return Image.fromarray(ink, "CMYK"), rgb
    return Image.fromarray(rgb), rgb


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_pictures_of_all_modes_are_read_right(tmp_path, mode):
    picture, seen = truth(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture.save(path)
    with Image.open(path) as written:
        assert written.mode == mode
    colour = imaging.read(path, (3, 8, 8)).transpose(1, 2, 0) * 255
    assert np.abs(colour - seen).max() <= (1.01 if "A" in mode else 0.001)  # blending rounds twice
    grey = imaging.read(path, (1, 8, 8))[0] * 255
    assert np.abs(grey - seen @ [0.299, 0.587, 0.114]).max() <= 1.6  # ITU-R 601


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(tmp_path, kind):
    Image.fromarray(np.full((8, 8), 70_000, kind)).save(tmp_path / "x.tif")
    with pytest.raises(CvaeError, match=r"x\.tif.*range"):
        imaging.read(tmp_path / "x.tif", (1, 8, 8))


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(imaging.read(tmp_path / "x.png", (1, 8, 8))[0] * 255, np.rot90(pixels, -1))


def test_a_picture_is_scaled_to_cover_and_cropped_in_the_middle(tmp_path):
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200  # the middle third
    Image.fromarray(pixels).save(tmp_path / "x.png")
    read = imaging.read(tmp_path / "x.png", (1, 10, 10)) * 255
    assert read.shape == (1, 10, 10) and np.abs(read[0, :, 1:-1] - 200).max() <= 3
    assert (imaging.read(tmp_path / "x.png", (1, 10, 30))[0, :, [0, 29]] == 0).all()


def test_a_picture_with_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99 * 100)
    with pytest.raises(CvaeError, match=r"x\.png"):
        imaging.read(tmp_path / "x.png", (1, 8, 8))


@pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (20, 50), (30, 30), (60, 20), (7, 140)])
def test_an_animation_begins_again_after_the_last(tmp_path, fps, milliseconds):
    imaging.save_gif([Image.new("L", (8, 4), 60 * i) for i in range(4)], tmp_path / "x.gif", fps)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.size == (280, 140) and gif.info["loop"] == 0
        frames = [(frame.convert("L").getextrema(), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert frames == [((60 * i, 60 * i), milliseconds) for i in range(4)]


def test_images_are_an_array_and_a_picture(tmp_path):
    images = cvae.load().generate(3, 7, seed=0)
    pixels = np.rint(np.asarray(images) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(images[1].to_pil()), pixels[1, 0])
    assert images.to_pil().size == (2 * 28 + 1, 2 * 28 + 1)  # a grid of two by two
    images[0].save(tmp_path / "seven.png")
    header, _, data = images[0].data_url().partition(",")
    assert header == "data:image/png;base64"
    for file in (tmp_path / "seven.png", io.BytesIO(base64.b64decode(data)), io.BytesIO(images[0]._repr_png_())):
        with Image.open(file) as picture:
            assert picture.format == "PNG" and np.array_equal(np.asarray(picture), pixels[0, 0])
    assert isinstance(images.mean(), np.floating) and type(np.asarray(images)) is np.ndarray
    assert type(images * 2) is type(images.mean(axis=0)) is np.ndarray and images[:, 0, 0]._repr_png_() is None
    with pytest.raises(UsageError, match="not an image"):
        images[0, 0].to_pil()


def test_a_picture_for_the_terminal():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))
    kitty = inline(picture, {"TERM": "xterm-kitty"})
    parts = re.findall("\033_G(.*?);(.*?)\033\\\\", kitty)
    assert "".join(f"\033_G{head};{data}\033\\" for head, data in parts) == kitty and len(parts) > 1
    assert [head for head, _ in parts] == ["a=T,f=100,m=1", *["m=1"] * (len(parts) - 2), "m=0"]
    assert max(len(data) for _, data in parts) <= 4096
    iterm = re.fullmatch("\033]1337;File=inline=1;size=([0-9]+):(.*)\a", inline(picture, {"TERM_PROGRAM": "iTerm.app"}))
    assert iterm and len(base64.b64decode(iterm[2])) == int(iterm[1])
    for data in ("".join(data for _, data in parts), iterm[2]):
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            assert np.array_equal(np.asarray(shown), np.asarray(picture))
    assert inline(picture, {"TERM": "xterm-256color"}) is None
    assert inline(picture, {"TERM": "tmux-256color", "TERM_PROGRAM": "WezTerm", "TMUX": "x"}) is None


# -- files that give what they should not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "value", "words"),
    [("Mul", -1, "standard deviation -"), ("Mul", 0, "standard deviation 0"), ("Mul", np.nan, "not finite")],
)
def test_a_standard_deviation_that_is_none_is_refused(trained, tmp_path, op, value, words):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    edit_output(run / "encoder.onnx", "std", op, value)
    with pytest.raises(CvaeError, match=rf"^'{run}/encoder.onnx' .*{words}.*$"):
        cvae.load(run).encode(some_images(2))


@pytest.mark.parametrize(("op", "value"), [("Add", 0.5), ("Sub", 0.5), ("Mul", np.nan), ("Mul", 1e30)])
def test_images_far_outside_their_range_are_refused(trained, tmp_path, op, value):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    edit_output(run / "decoder.onnx", "image", op, value)
    with pytest.raises(CvaeError, match=rf"^'{run}/decoder.onnx' (contradicts.*not 0\.\.1;|returns .*not finite).*$"):
        cvae.load(run).generate(2, seed=0)


def test_images_outside_their_range_by_rounding_are_clipped(trained, tmp_path):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    before = cvae.load(run).generate(70, seed=0)  # more than one chunk
    edit_output(run / "decoder.onnx", "image", "Sub", 1e-3)
    images = cvae.load(run).generate(70, seed=0)
    assert images.min() == 0 and np.abs(images - (before - np.float32(1e-3)).clip(0, 1)).max() < 1e-6
