"""`cvae plot latent`: maps of latent codes."""

import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from plot_helpers import legends, read_pixels

import cvae as package
from cvae.config import TrainConfig
from cvae.data import Split, load_dataset
from cvae.errors import UsageError
from cvae.plots import latent, reconstructions, style
from cvae.plots.codes import Codes, encode


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_codes_equal_those_of_the_encoder(trained, kind):
    model, config = package.load(trained[kind]), TrainConfig(data="digits")
    test = load_dataset(config).test
    codes = encode(model, config)
    mean, std = model.encode(test.images / np.float32(255), test.labels if kind == "labels" else None)
    assert np.allclose(codes.mean, mean, atol=1e-5) and np.allclose(codes.std, std, atol=1e-5)
    assert codes.data == "digits" and np.array_equal(codes.images.labels, test.labels) and len(codes.mean) == 359
    by_hand = [np.mean([(m * m + s * s - 1) / 2 - np.log(s) for m, s in zip(*both, strict=True)]) for both in
               zip(mean.T.astype(float), std.T.astype(float), strict=True)]  # fmt: skip
    assert np.allclose(codes.kl(), by_hand, atol=1e-4) and (codes.kl() > 0).all()
    few = encode(model, config, limit=10)
    assert np.array_equal(few.images.images, test.images[np.linspace(0, 358, 10).astype(int)])


def clusters(count: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(count * classes) % classes
    return (10 * np.eye(classes, 12)[labels] + random.standard_normal((len(labels), 12))).astype(np.float32), labels


@pytest.mark.integration
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_separate_classes_stay_separate(method):
    codes, labels = clusters()
    places = latent.project(codes, method, perplexity=10)
    assert places.shape == (200, 2) and np.array_equal(places, latent.project(codes, method, perplexity=10))
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 200)
    accuracy = (labels[distance.argmin(1)] == labels).mean()
    assert accuracy > 0.99 if method == "tsne" else accuracy > 0.6  # PCA can't separate all five in two dimensions


def test_pca_preserves_distances_between_two_dimensional_codes():
    codes = np.random.default_rng(0).standard_normal((50, 2)) * [3, 1]
    distances = [np.linalg.norm(a[:, None] - a, axis=-1) for a in (codes, latent.project(codes, "pca"))]
    assert np.allclose(*distances)
    assert np.ptp(latent.project(codes[:, :1], "pca"), axis=0)[1] < 1e-6


@pytest.mark.parametrize(
    ("count", "flags", "words"),
    [
        (2, {"method": "pca"}, ["2 codes", "at least 3"]),
        (30, {}, ["--perplexity 30", "are 30", "--perplexity 9"]),
        (200, {"method": "tnse"}, ["'tnse'", "'tsne'"]),
    ],
    ids=str,
)
def test_projection_rejects_too_few_codes_and_unknown_methods(count, flags, words):
    with pytest.raises(UsageError) as caught:
        latent.project(clusters()[0][:count], **flags)
    assert all(word in str(caught.value) for word in words), caught.value


def make_codes(labels: np.ndarray | None, classes: tuple[str, ...] | None) -> Codes:
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 6, 4), np.uint8)
    return Codes("own", "test", classes, Split(images=images, labels=labels), np.zeros((200, 3)), np.ones((200, 3)))


@pytest.mark.integration
@pytest.mark.parametrize("thumbnails", [False, True])
def test_map_has_a_colour_a_marker_and_a_name_for_each_class(tmp_path, thumbnails):
    codes, labels = clusters()
    places = latent.project(codes, perplexity=10)
    figure = latent.draw(make_codes(labels, tuple("abcde")), places, "title", thumbnails=thumbnails)
    (axes,) = figure.axes
    for label, points in enumerate(axes.collections):
        assert np.allclose(points.get_offsets(), places[labels == label]) and points.get_label() == "abcde"[label]
        assert np.allclose(points.get_facecolor()[0, :3], to_rgb(style.OKABE_ITO[label]))
    assert len(axes.collections) == 5
    (legend,) = legends(figure)
    assert [text.get_text() for text in legend.get_texts()] == list("abcde")
    positions = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(positions) == (set() if thumbnails else set("abcde"))
    for name, place in positions.items():
        assert np.allclose(place, np.median(places[labels == "abcde".index(name)], axis=0))
    style.save(figure, tmp_path / "map.png")
    assert (np.abs(read_pixels(tmp_path / "map.png").astype(int) - [0, 114, 178]).max(-1) <= 2).sum() > 100


def test_thumbnails_are_drawn_at_their_codes_and_do_not_overlap():
    codes, labels = clusters()
    places = latent.project(codes, "pca")
    encoded = make_codes(labels, tuple("abcde"))
    figure = latent.draw(encoded, places, "title", thumbnails=True)
    images = figure.axes[0].images
    assert 5 < len(images) < 200
    boxes = np.array([image.get_extent() for image in images])  # left, right, bottom, top
    middles = np.stack([boxes[:, :2].mean(1), boxes[:, 2:].mean(1)], axis=1)
    for image, middle in zip(images, middles, strict=True):
        index = int(np.abs(places - middle).sum(1).argmin())
        assert np.allclose(places[index], middle, atol=1e-3)
        assert np.array_equal(np.asarray(image.get_array()), encoded.images.images[index].transpose(1, 2, 0))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]
    figure.draw_without_rendering()
    (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert left < places[:, 0].min() and places[:, 0].max() < right
    assert low < places[:, 1].min() and places[:, 1].max() < high


def test_data_without_labels_have_one_colour_and_no_legend():
    figure = latent.draw(make_codes(None, None), latent.project(clusters()[0], "pca"), "title", thumbnails=True)
    assert len(figure.axes[0].collections) == 1 and not legends(figure) and not figure.axes[0].texts


def test_classes_without_a_cluster_are_not_named_in_the_map():
    places = np.random.default_rng(0).standard_normal((200, 2))
    figure = latent.draw(make_codes(np.arange(200) % 5, tuple("abcde")), places, "title")
    assert not figure.axes[0].texts and len(legends(figure)) == 1


def test_names_that_would_overlap_are_only_in_the_legend(tmp_path):
    classes = tuple(f"a name of some length {i}" for i in range(50))
    labels = np.arange(200) % 50
    middles = np.stack([np.arange(50) % 7, np.arange(50) // 7], axis=1)
    places = middles[labels] + np.random.default_rng(0).random((200, 2)) / 9
    figure = latent.draw(make_codes(labels, classes), places, "")
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 5 < len(boxes) < 50 and all(not a.count_overlaps(boxes[:i]) for i, a in enumerate(boxes))
    assert len(legends(figure)[0].get_texts()) == 50
    style.save(figure, tmp_path / "map.png")
    height, width, _ = read_pixels(tmp_path / "map.png").shape
    assert width > 1.3 * height  # there is room for the legend next to the map


def test_codes_of_unconditional_model_are_coloured_by_the_labels_in_the_data(plot, trained, saved_figures):
    report = plot("latent", trained["plain"], "--limit", 200, "--out", "codes.png", "--json").json
    assert report == {
        "out": "codes.png", "model": "plain", "data": "digits", "split": "test", "images": 200, "method": "tsne"
    }  # fmt: skip
    pixels = read_pixels("codes.png")
    assert pixels.shape[0] > 900 and pixels.shape[1] > 1_000
    assert len(saved_figures[0].axes[0].collections) == 10
    # The model has learned the classes without labels: most codes have the class of their nearest neighbour.
    points = [np.asarray(scatter.get_offsets()) for scatter in saved_figures[0].axes[0].collections]
    places, labels = np.concatenate(points), np.repeat(range(10), [len(offsets) for offsets in points])
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 200)
    assert (labels[distance.argmin(1)] == labels).mean() > 0.6


def test_latent_says_why_a_conditional_model_mixes_the_colours(plot, trained):
    result = plot("latent", trained["labels"], "--limit", 50, "--perplexity", 5, "--thumbnails", "--out", "a.svg")
    assert result.code == 0 and result.out == "a.svg (50 images)\n" and "expect mixed colours" in result.err
    assert ElementTree.parse("a.svg").getroot().tag.endswith("svg")


def test_latent_accepts_other_data_and_splits(plot, trained):
    np.savez("own.npz", train=np.zeros((9, 8, 8), np.uint8), test=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
    flags = ["--data", "npz:own.npz", "--method", "pca", "--json"]
    report = plot("latent", trained["plain"], *flags).json
    assert (report["data"], report["images"]) == ("own", 10)
    assert plot("latent", trained["plain"], "--split", "validation", "--method", "pca", "--json").json["images"] == 144


def test_error_for_umap_names_the_missing_package(assert_fails, trained, monkeypatch):
    monkeypatch.setattr(latent, "find_spec", lambda name: None)
    assert_fails(1, ["pip install umap-learn"], "latent", trained["plain"], "--method", "umap")


def test_umap_uses_the_seed(monkeypatch):
    class UMAP:
        def __init__(self, random_state: int, n_jobs: int) -> None:
            self.seed = random_state

        def fit_transform(self, codes: np.ndarray) -> np.ndarray:
            return codes[:, :2] + self.seed

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP, __spec__=True))
    codes = clusters()[0]
    assert np.array_equal(latent.project(codes, "umap", seed=3), codes[:, :2] + 3)


def test_codes_of_a_model_with_conditions_use_those_of_the_data(conditional, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    names, ages, hats = np.array(["a", "b", "c", ""] * 10), np.arange(40) / 4, np.arange(40) % 2 > 0
    columns = {"train_label": names, "train_age": ages, "train_beard": ~hats, "train_hat": hats}
    np.savez(tmp_path / "set.npz", train=images, **columns)
    config = TrainConfig(data=f"npz:{tmp_path / 'set.npz'}", condition=("traits:attributes=beard,hat",), validation=0.0)
    model = package.load(conditional)
    codes = encode(model, config, split="train")
    labels = [name or "unknown" for name in names]
    assert [codes.classes[label] for label in codes.images.labels] == labels

    known = np.flatnonzero(names != "")
    values = {"age": ages[known], "traits": np.column_stack([~hats, hats])[known], "label": names[known]}
    expected = model.encode(images[known, None], **values)
    np.testing.assert_allclose(codes.mean[known], expected.mean, rtol=1e-4, atol=1e-4)
    figure = latent.draw(codes, codes.mean[:, :2], "codes")
    (legend,) = legends(figure)
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c", "unknown"]

    shown = []
    monkeypatch.setattr(reconstructions, "image_grid", lambda images, *_: shown.append(images))
    reconstructions.draw(model, codes, 40, "")
    expected = model.reconstruct(images[known, None], **values)
    np.testing.assert_allclose(shown[0][40:][known], expected, atol=1e-4)
