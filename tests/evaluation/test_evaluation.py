"""Metrics, compared with formulas, exact likelihoods and other implementations."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter, laplace
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors
from torch import distributions as D
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import cvae
from cvae.conditions import label_condition
from cvae.config import TrainConfig
from cvae.data import Split, load_dataset
from cvae.errors import CvaeError, UsageError
from cvae.evaluation import evaluate as evaluate_module
from cvae.evaluation import feature_extractor as feature_extractor_module
from cvae.evaluation.bounds import bounds, bounds_per_label, log_mean_exp
from cvae.evaluation.evaluate import evaluate
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.evaluation.feature_extractor import CLASSIFIERS, load_feature_extractor
from cvae.evaluation.fidelity import (
    density_and_coverage,
    frechet_distance,
    memorization,
    nearest,
    precision_and_recall,
    psnr,
    sharpness,
    ssim,
)
from cvae.evaluation.generation import subsample
from cvae.evaluation.run_scorer import RunScorer
from cvae.evaluation.run_scorer.scorer import sum_by_group
from cvae.evaluation.splits import load_split
from cvae.models import VAE
from cvae.models.conditioning import Unconditional
from cvae.models.likelihoods import Likelihood
from cvae.models.priors import Normal

LATENT, PIXELS, SIGMA = 3, 16, 0.5


class Linear(Likelihood):
    """Gaussian likelihood N(params, SIGMA^2) without clipping: probabilistic PCA if the decoder is linear."""

    param_channels = 1

    def nll(self, params, image):
        return -D.Normal(params, SIGMA).log_prob(image).sum((1, 2, 3))

    def mean(self, params):
        return params


class LinearDecoder(nn.Module):
    """Linear decoder with a loading matrix and an offset for each label. Without labels, all images share a pair."""

    def __init__(self, loadings, offsets):
        super().__init__()
        self.loadings, self.offsets = loadings, offsets  # (K, P, Z), (K, P)

    def forward(self, latent, label):
        label = torch.zeros(len(latent), dtype=torch.long) if label is None else label
        pixels = torch.einsum("bpz,bz->bp", self.loadings[label], latent) + self.offsets[label]
        return pixels.unflatten(1, (1, 4, 4))


class LinearEncoder(nn.Module):
    """Exact posterior of the linear model, shifted by `error` standard deviations and widened."""

    def __init__(self, decoder, error):
        super().__init__()
        self.decoder, self.error = decoder, error

    def forward(self, image, label):
        label = torch.zeros(len(image), dtype=torch.long) if label is None else label
        loadings = self.decoder.loadings[label]  # (B, P, Z)
        precision = torch.eye(LATENT) + loadings.mT @ loadings / SIGMA**2
        offset = (image.flatten(1) - self.decoder.offsets[label])[..., None]
        mean = torch.linalg.solve(precision, loadings.mT @ offset / SIGMA**2)[..., 0]
        variance = torch.linalg.inv(precision).diagonal(dim1=1, dim2=2)
        return mean + self.error * variance.sqrt(), (variance * (1 + self.error)).log()


class LinearScorer(RunScorer):
    """Scorer of the linear model. It does not need a run."""

    def __init__(self, classes=None, error=0.3):
        torch.manual_seed(0)
        count = 1 if classes is None else len(classes)
        self.decoder = LinearDecoder(torch.randn(count, PIXELS, LATENT), torch.randn(count, PIXELS))
        encoder = LinearEncoder(self.decoder, error)
        self.model = VAE(
            latent_dim=LATENT,
            encoder=encoder,
            decoder=self.decoder,
            likelihood=Linear(),
            prior=Normal(3, Unconditional()),
        )
        self.device, self.dtype, self.name = "cpu", None, "linear"
        self.image_shape, self.latent_dim, self.classes, self.likelihood = (1, 4, 4), LATENT, classes, "linear"
        self.groups, self.discrete = (LATENT,), False

    def log_likelihood(self, images, label):
        """Return log N(x | offset, W W^T + sigma^2 I) of Tipping & Bishop 1999, eq. 4."""
        loadings = self.decoder.loadings[label]
        covariance = loadings @ loadings.T + SIGMA**2 * torch.eye(PIXELS)
        normal = D.MultivariateNormal(self.decoder.offsets[label], covariance)
        return normal.log_prob(torch.from_numpy(images).flatten(1)).numpy()

    def draw(self, count, label):
        noise = np.random.default_rng(1).standard_normal((count, LATENT), dtype=np.float32)
        mean = self.decode(noise, np.full(count, label))
        return mean + SIGMA * np.random.default_rng(2).standard_normal(mean.shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (7, [[0 + 1, 2 + 3, 4 + 5 + 6]]),  # each dimension has a column
        (4, [[0, 1 + 2 + 3]]),  # a flow transforms the first four dimensions, which are the first two groups
        (3, [[0 + 1 + 2]]),  # it transforms a part of the last group too
        (1, [[0]]),  # all dimensions share a column
    ],
)
def test_rate_is_summed_by_group(columns, expected):
    rate = torch.arange(columns).expand(1, -1)
    assert sum_by_group(rate, (2, 2, 3)).tolist() == expected


@pytest.mark.integration
def test_importance_weighted_bound_reaches_the_likelihood_of_probabilistic_pca():
    scorer = LinearScorer()
    images = scorer.draw(200, 0)
    exact = -scorer.log_likelihood(images, 0)
    actual = bounds(scorer, images, None, samples=3000)
    np.testing.assert_allclose(actual.importance_weighted.mean(), exact.mean(), atol=0.02)
    assert actual.bound.mean() > exact.mean() + 0.1  # the encoder is inexact on purpose


def test_bound_with_exact_posterior_equals_the_likelihood():
    scorer = LinearScorer(error=0.0)
    scorer.decoder.loadings = torch.linalg.qr(scorer.decoder.loadings)[0]  # orthogonal: the posterior factorizes
    images = scorer.draw(50, 0)
    exact = -scorer.log_likelihood(images, 0)
    actual = bounds(scorer, images, None, samples=3000)
    np.testing.assert_allclose(actual.importance_weighted, exact, atol=1e-3)  # all importance weights are equal
    np.testing.assert_allclose(actual.bound.mean(), exact.mean(), atol=0.05)


def test_bound_tightens_with_the_number_of_samples():
    scorer = LinearScorer(error=0.6)
    images = scorer.draw(300, 0)
    nats = [bounds(scorer, images, None, samples=k).importance_weighted.mean() for k in (1, 3, 10, 100)]
    assert nats == sorted(nats, reverse=True) and nats[0] - nats[-1] > 0.5


@pytest.mark.integration
def test_label_bounds_agree_with_the_exact_mixture():
    scorer = LinearScorer(classes=("a", "b", "c"))
    images = np.concatenate([scorer.draw(60, label) for label in range(3)])
    exact = np.stack([scorer.log_likelihood(images, label) for label in range(3)])
    by_label = [
        -bounds(scorer, images, np.full(len(images), label), samples=2000).importance_weighted for label in range(3)
    ]
    marginal = logsumexp(by_label, axis=0) - math.log(3)
    np.testing.assert_allclose(marginal.mean(), (logsumexp(exact, axis=0) - math.log(3)).mean(), atol=0.02)
    assert (bounds_per_label(scorer, images).argmin(1) == exact.argmax(0)).mean() > 0.95


def test_unused_latent_dimensions_are_not_active():
    scorer = LinearScorer(error=0.0)
    images = scorer.draw(300, 0)
    assert bounds(scorer, images, None).active_units == 3
    scorer.decoder.loadings[:, :, 1] = 0
    assert bounds(scorer, images, None).active_units == 2


def test_bounds_do_not_depend_on_the_number_of_images():
    scorer = LinearScorer()
    images = scorer.draw(150, 0)
    few, many = bounds(scorer, images[:64], None, samples=9), bounds(scorer, images, None, samples=9)
    np.testing.assert_allclose(many.importance_weighted[:64], few.importance_weighted, rtol=1e-6)


def test_log_mean_exp_agrees_with_scipy():
    values = np.random.default_rng(0).normal(-500, 30, (5, 40))
    np.testing.assert_allclose(log_mean_exp(values), logsumexp(values, axis=1) - math.log(40))


def pairs(shape):
    rng = np.random.default_rng(0)
    images = rng.random((4, *shape), np.float32)
    return images, (images + 0.1 * rng.standard_normal(images.shape, np.float32)).clip(0, 1)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40)])
def test_psnr_and_ssim_agree_with_torchmetrics(shape):
    images, others = pairs(shape)
    a, b = torch.from_numpy(images).double(), torch.from_numpy(others).double()
    expected = [float(peak_signal_noise_ratio(x, y, data_range=1.0)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(images, others), expected, rtol=1e-5)
    expected = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", sigma=1.5).numpy()
    # The implementations treat the borders differently.
    np.testing.assert_allclose(ssim(images, others), expected, atol=0.02)


@pytest.mark.parametrize("side", [4, 8, 10])
def test_ssim_supports_images_smaller_than_its_window(side):
    images, others = pairs((1, side, side))
    np.testing.assert_allclose(ssim(images, images), 1)
    assert (ssim(images, others) < 1).all()


def test_frechet_distance_agrees_with_matrix_square_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 6)), rng.normal(1, 2, size=(400, 6)) @ rng.normal(size=(6, 6))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_density_and_coverage_agree_with_their_definition():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(1200, 5)), 1.5 * rng.normal(size=(700, 5))
    radius = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]
    distance = np.linalg.norm(real[:, None] - generated, axis=2)
    actual = density_and_coverage(real, generated)
    assert actual.density == pytest.approx((distance < radius[:, None]).sum() / (5 * 700), abs=1e-3)
    assert actual.coverage == pytest.approx((distance.min(1) < radius).mean(), abs=1e-3)


def test_precision_and_recall_agree_with_their_definition():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(1200, 4)), 0.7 * rng.normal(size=(700, 4))
    distance = np.linalg.norm(real[:, None] - generated, axis=2)
    expected = []
    for reference, pairs in ((real, distance.T), (generated, distance)):
        radius = NearestNeighbors(n_neighbors=4).fit(reference).kneighbors(reference)[0][:, 3]
        expected.append((pairs <= radius).any(1).mean())
    assert precision_and_recall(real, generated) == pytest.approx(expected, abs=3e-3)


def test_precision_and_recall_separate_quality_from_variety():
    rng = np.random.default_rng(0)
    first, second, third = (rng.normal(size=(300, 3)) + offset for offset in (0, 100, 200))
    real = np.concatenate([first, second])
    assert precision_and_recall(real, first) == pytest.approx((1, 0.5))  # the second mode is missing
    assert precision_and_recall(first, real) == pytest.approx((0.5, 1))  # half of the images are not realistic
    assert precision_and_recall(real, third) == (0, 0)


def test_nearest_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    features, reference = rng.normal(size=(1500, 6)), rng.normal(size=(40, 6))
    distances, indices = NearestNeighbors(n_neighbors=3).fit(reference).kneighbors(features)
    actual = nearest(features, reference, k=3)
    assert (actual.indices == indices).mean() > 0.999  # rounding may exchange two neighbours
    np.testing.assert_allclose(actual.distances, distances, rtol=1e-4)


def test_memorization_is_the_share_of_copies():
    """New points of the same distribution count as memorized in 5 % of the cases, copies always."""
    rng = np.random.default_rng(0)
    train, held_out, new = (rng.normal(size=(2000, 5)) for _ in range(3))
    assert memorization(held_out, train, held_out) == pytest.approx(0.05, abs=1e-3)
    assert memorization(new, train, held_out) == pytest.approx(0.05, abs=0.02)  # 4 standard errors
    copies = train[:1000] + 1e-4
    assert memorization(np.concatenate([held_out[:1000], copies]), train, held_out) == pytest.approx(0.525, abs=0.01)
    assert memorization(new + 100, train, held_out) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_agrees_with_scipy(channels):
    images = np.random.default_rng(0).random((4, channels, 12, 17), np.float32)
    grey = images[:, 0] if channels == 1 else 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    expected = [laplace(image.astype(np.float64)).var() for image in grey]
    np.testing.assert_allclose(sharpness(images), expected, rtol=1e-5)
    blurred = gaussian_filter(images, (0, 0, 1, 1))
    assert (sharpness(blurred) < 0.1 * sharpness(images)).all()


def test_bundled_classifier_is_checked_against_its_hash(tmp_path, monkeypatch):
    extractor = load_feature_extractor("mnist")
    assert extractor.classes == tuple("0123456789") and extractor.accuracy > 0.99
    image = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    assert extractor.features(image).shape == (3, 128) and extractor.predict(image).shape == (3,)
    monkeypatch.setitem(CLASSIFIERS, "mnist", (CLASSIFIERS["mnist"][0], "0" * 64))
    with pytest.raises(CvaeError, match="damaged; install"):
        load_feature_extractor("mnist")


@pytest.mark.parametrize("name", ["mnits", "no_such_module:f", "math:no_such_function", "math:pi", ":f", "math:"])
def test_unknown_feature_extractor_is_rejected(name):
    with pytest.raises(UsageError, match=name):
        load_feature_extractor(name)


def quarter_means(images):
    """Return custom features: the mean of each quarter of an image."""
    return images.reshape(len(images), 4, -1).mean(2)


def test_custom_feature_extractor_is_used():
    images = np.random.default_rng(0).random((3, 1, 8, 8))
    extractor = load_feature_extractor(f"{__name__}:quarter_means")
    np.testing.assert_array_equal(extractor.features(images), quarter_means(images))
    with pytest.raises(UsageError, match=r"array \(3, 4, 2, 8\) for 3 images"):
        load_feature_extractor("numpy:asarray").features(images.reshape(3, 4, 2, 8))


@pytest.mark.integration
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-learned", "gaussian-optimal"])
def test_run_and_exported_files_have_the_same_bounds(tmp_path, likelihood):
    """With a normal prior, the posterior of the exported encoder is that of the run."""
    config = TrainConfig(
        arch="mlp", conditional=True, prior="normal", likelihood=likelihood, epochs=2, latent_dim=8, trackers=("none",)
    )
    folder = cvae.train(config, tmp_path / "run", quiet=True).path
    test = load_dataset(config).test
    run, exported = (
        bounds(scorer, test.images, test.labels, samples=20)
        for scorer in (RunScorer(folder, "cpu"), ExportedScorer(cvae.load(folder)))
    )
    np.testing.assert_allclose(exported.distortion, run.distortion, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(exported.rate.sum(1), run.rate.sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(exported.importance_weighted, run.importance_weighted, rtol=1e-4, atol=1e-4)
    assert exported.active_units == run.active_units
    images = [
        scorer.reconstruct(test.images[:5] / np.float32(255), test.labels[:5])
        for scorer in (RunScorer(folder, "cpu"), ExportedScorer(cvae.load(folder)))
    ]
    np.testing.assert_allclose(*images, atol=1e-5)


@pytest.mark.parametrize("name", ["labels", "plain"])
def test_report_is_consistent_and_agrees_with_the_metrics_of_the_run(trained, name, monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "digits", ("", ""))
    custom = feature_extractor_module.FeatureExtractor(
        name="quarters",
        features=quarter_means,
        outputs=lambda images: np.eye(10)[np.zeros(len(images), int)],
        image_shape=(1, 8, 8),
        conditions=label_condition(tuple("0123456789")),
        scores={"label": {"accuracy": 0.5}},
    )
    monkeypatch.setattr(evaluate_module, "load_feature_extractor", lambda name: custom)
    report = evaluate(RunScorer(trained[name], "cpu"), TrainConfig(), samples=5, limit=100)
    test_bound = json.loads((trained[name] / "metrics.jsonl").read_text().splitlines()[-1])["test"]["bound"]
    assert report["bound"]["nats"] == pytest.approx(test_bound, abs=6 * report["bound"]["standard_error"])
    assert report["bound"]["nats"] == pytest.approx(report["bound"]["distortion"] + report["bound"]["rate"])
    assert report["importance_weighted"]["nats"] < report["bound"]["nats"]
    assert report["protocol"]["images"] == 100
    generated = report["generated"]
    assert 0 <= generated["frechet_of_training_images"] < generated["frechet"]
    assert generated["images"] == len(load_dataset(TrainConfig()).test)  # as many as there are real images
    assert 0 < generated["coverage"] <= 1 and generated["features"] == "quarters"
    assert 0 < generated["precision"] <= 1 and 0 <= generated["memorization"] <= 1
    assert 0 < report["reconstruction"]["sharpness"] < 1  # reconstructions are blurred
    if name == "labels":
        assert report["labels"]["label_accuracy"] == pytest.approx(0.1, abs=0.05)  # the classifier always predicts 0
        assert report["labels"]["label_accuracy_of_real_images"] == 0.5 and "conditions" not in report
        assert report["labels"]["accuracy_of_the_bound_as_a_classifier"] > 0.8
        extra = report["labels"]["bound_without_the_label"] - report["bound"]["nats"]
        assert 0 < extra <= math.log(10) + 0.5  # 0.5 allows for different noise
    else:
        assert "labels" not in report
    json.dumps(report)


@pytest.mark.slow
def test_classifier_learns_from_generated_images(trained):
    from cvae.evaluation.run_scorer.accuracy_score import accuracy_score

    score = accuracy_score(RunScorer(trained["labels"], "cpu"), TrainConfig(), progress=lambda *args: None)
    assert score["classification_accuracy_of_real_data"] > 0.9
    assert 0.5 < score["classification_accuracy_score"] <= 1
    with pytest.raises(UsageError, match="no labels"):
        accuracy_score(RunScorer(trained["plain"], "cpu"), TrainConfig(), progress=lambda *args: None)


def test_evaluation_rejects_data_that_does_not_fit_the_model(trained, tmp_path):
    scorer = RunScorer(trained["plain"], "cpu")
    np.savez(tmp_path / "set.npz", train=np.zeros((9, 9, 9), np.uint8))
    with pytest.raises(UsageError, match=r"shape \(1, 9, 9\).* takes \(1, 8, 8\)"):
        evaluate(scorer, TrainConfig(data=f"npz:{tmp_path / 'set.npz'}"), split="train")
    with pytest.raises(UsageError, match="the data set 'set' has no test images; use --split validation"):
        evaluate(scorer, TrainConfig(data=f"npz:{tmp_path / 'set.npz'}"), split="test")
    with pytest.raises(UsageError, match="the data set 'set' has no test images; use --split train"):
        evaluate(scorer, TrainConfig(data=f"npz:{tmp_path / 'set.npz'}", validation=0.0))
    model = cvae.load(trained["plain"])
    model._decoder.spec = replace(model.spec, likelihood="logistic-mixture", sigma=None)
    with pytest.raises(UsageError, match=r"logistic-mixture.* evaluate the run's folder"):
        ExportedScorer(model)


def test_conditional_model_requires_labels_in_the_split(trained, tmp_path):
    images = np.zeros((30, 8, 8), np.uint8)
    np.savez(tmp_path / "set.npz", train=images, train_labels=np.arange(30) % 10, test=images)
    with pytest.raises(UsageError, match="has no test images"):
        evaluate(RunScorer(trained["labels"], "cpu"), TrainConfig(data=f"npz:{tmp_path / 'set.npz'}"), split="test")


def test_limit_selects_evenly_spaced_images():
    split = Split(images=np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), labels=np.arange(10))
    assert subsample(split, 4).labels.tolist() == [0, 3, 6, 9]
    assert subsample(split, None) is split
    assert len(subsample(split, 99)) == 10


def test_grey_data_fit_models_of_colour_images():
    model = SimpleNamespace(name="colour", image_shape=(3, 8, 8), classes=None, conditions=())
    grey = load_dataset(TrainConfig()).test.images
    images = load_split(TrainConfig(), "test", model)[2].images
    assert images.shape == (len(grey), 3, 8, 8) and all(np.array_equal(images[:, i], grey[:, 0]) for i in range(3))
    with pytest.raises(UsageError, match="has images with 1 channels"):
        load_split(TrainConfig(), "test", SimpleNamespace(name="x", image_shape=(2, 8, 8), classes=None, conditions=()))
