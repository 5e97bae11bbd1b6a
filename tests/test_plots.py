"""cvae plot: what the figures show, compared with numpy, the models and the files that they are drawn from."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import cvae as package
from cvae import model_zoo
from cvae.config import TrainConfig
from cvae.data import Split, load_dataset
from cvae.errors import CvaeError, UsageError
from cvae.evaluation.evaluate import subsample
from cvae.plots import grid, latent, losses, progress, style, traverse
from cvae.plots.codes import Codes, encode
from cvae.plots.image_grid import image_grid

ZOO = model_zoo.DEFAULT


@pytest.fixture
def plot(cvae) -> Callable[..., Any]:
    """Run `cvae plot` in an empty folder."""
    return partial(cvae, "plot")


@pytest.fixture
def refused(plot) -> Callable[..., None]:
    """The command ends with this code and one error line with all the words, and writes nothing."""

    def check(code: int, words: list[str], *args: object) -> None:
        before = sorted(Path.cwd().rglob("*"))
        done = plot(*args)
        assert (done.code, done.out) == (code, ""), done.err
        line = done.err.splitlines()[-1]
        assert line.startswith("cvae: error: ") and "Traceback" not in done.err
        assert [word for word in words if word not in line] == [], line
        assert sorted(Path.cwd().rglob("*")) == before

    return check


@pytest.fixture(scope="session")
def plane(tmp_path_factory) -> dict[str, Path]:
    """Two runs with a code of two numbers, as good as untrained: "labels" and "plain"."""
    from cvae.engine import train
    from cvae.exporters.onnx import export

    folder = tmp_path_factory.mktemp("plane")
    runs = {}
    for name, conditional in {"labels": True, "plain": False}.items():
        asked = TrainConfig(
            arch="mlp", conditional=conditional, epochs=2, latent_dim=2, prior="normal", trackers=("none",)
        )
        runs[name] = train(asked, folder / name, quiet=True)
        export(runs[name])
    return runs


@pytest.fixture
def shown(monkeypatch) -> list[Figure]:
    """Every figure that a command saves; images are enlarged without smoothing, to be read pixel by pixel."""
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)
    kept: list[Figure] = []
    save = style.save
    monkeypatch.setattr("cvae.plots.style.save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def picture(path: str | Path) -> np.ndarray:
    """The pixels of a figure that must not be blank."""
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"))
    assert pixels.std() > 10
    return pixels


def cells(figure: Figure, rows: int, columns: int, side: int = 8) -> np.ndarray:
    """The images (rows, columns, side, side) on a sheet, as bytes."""
    (axes,) = figure.axes
    (drawn,) = axes.images
    pixels = np.asarray(drawn.get_array())
    factor = pixels.shape[1] // (columns * side)
    large = factor * side
    gap = max(1, large // 28)
    assert factor > 1 and pixels.shape == (rows * (large + gap) - gap, columns * (large + gap) - gap)
    padded = np.pad(pixels, ((0, gap), (0, gap))).reshape(rows, large + gap, columns, large + gap).swapaxes(1, 2)
    images = padded[:, :, :large:factor, :large:factor]
    assert np.array_equal(padded[:, :, :large, :large], np.kron(images, np.ones((1, 1, factor, factor), int)))
    return images.astype(int)


def close(found: np.ndarray, images: np.ndarray) -> bool:
    """Whether these bytes (R, K, H, W) are the images (R*K, 1, H, W), rounded."""
    return bool(np.abs(found.reshape(images.shape) - images * 255).max() <= 0.51)


def names(figure: Figure) -> tuple[list[str], list[str]]:
    """What is written before the rows and above the columns of a sheet."""
    (axes,) = figure.axes
    return [text.get_text() for text in axes.get_yticklabels()], [text.get_text() for text in axes.get_xticklabels()]


def legends(figure: Figure) -> list[Any]:
    return [legend for legend in (axes.get_legend() for axes in figure.axes) if legend is not None]


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 9, 10, 110])
def test_colours_and_markers_tell_classes_apart(count):
    found = style.colours(count)
    assert len(found) == count and all(to_rgb(colour) for colour in found)
    looks = {(colour, style.MARKERS[i % len(style.MARKERS)]) for i, colour in enumerate(found)}
    assert len(looks) == count


def test_a_figure_is_saved_by_its_ending_twice_the_same(tmp_path):
    for ending in style.SUFFIXES:
        for name in "ab":
            figure = Figure()
            figure.subplots().plot([1, 2], label="x")
            style.save(figure, tmp_path / f"{name}{ending}")
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    with pytest.raises(UsageError, match=r"'.*x\.pdf'.*\.png or \.svg"):
        style.save(Figure(), tmp_path / "x.pdf")
    assert len(list(tmp_path.iterdir())) == 4


def test_names_are_no_formulas(tmp_path):
    images = np.random.default_rng(0).random((6, 3, 5, 9), np.float32)
    figure = image_grid(images, ["a$b", "$c$_"], ["$", "", "2"], "5$ and $5")
    factor = 10  # 0.65 inches are 94 pixels
    assert figure.axes[0].images[0].get_array().shape == (5 * 2 * factor + 1, 9 * 3 * factor + 2, 3)
    style.save(figure, tmp_path / "sheet.png")
    picture(tmp_path / "sheet.png")


def test_a_tall_sheet_is_still_drawn(tmp_path):
    figure = image_grid(np.zeros((3_000, 1, 4, 4), np.float32), [""] * 3_000, [""], "")
    assert figure.get_size_inches().max() * 144 < 2**16


# -- latent ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_codes_are_the_encoders(trained, kind):
    model, asked = package.load(trained[kind]), TrainConfig(data="digits")
    test = load_dataset(asked).test
    codes = encode(model, asked)
    mean, std = model.encode(test.images / np.float32(255), test.labels if kind == "labels" else None)
    assert np.allclose(codes.mean, mean, atol=1e-5) and np.allclose(codes.std, std, atol=1e-5)
    assert codes.data == "digits" and np.array_equal(codes.images.labels, test.labels) and len(codes.mean) == 359
    by_hand = [np.mean([(m * m + s * s - 1) / 2 - np.log(s) for m, s in zip(*both, strict=True)]) for both in
               zip(mean.T.astype(float), std.T.astype(float), strict=True)]  # fmt: skip
    assert np.allclose(codes.kl(), by_hand, atol=1e-4) and (codes.kl() > 0).all()
    few = encode(model, asked, limit=10)
    assert np.array_equal(few.images.images, test.images[np.linspace(0, 358, 10).astype(int)])


def clusters(count: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(count * classes) % classes
    return (10 * np.eye(classes, 12)[labels] + random.standard_normal((len(labels), 12))).astype(np.float32), labels


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_classes_that_are_apart_stay_apart(method):
    codes, labels = clusters()
    places = latent.project(codes, method, perplexity=10)
    assert places.shape == (200, 2) and np.array_equal(places, latent.project(codes, method, perplexity=10))
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 200)
    accuracy = (labels[distance.argmin(1)] == labels).mean()
    assert accuracy > 0.99 if method == "tsne" else accuracy > 0.6  # five groups do not all part in two dimensions


def test_a_code_of_two_numbers_is_only_turned():
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
def test_codes_that_make_no_map_are_refused(count, flags, words):
    with pytest.raises(UsageError) as caught:
        latent.project(clusters()[0][:count], **flags)
    assert all(word in str(caught.value) for word in words), caught.value


def codes_of(labels: np.ndarray | None, classes: tuple[str, ...] | None) -> Codes:
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 6, 4), np.uint8)
    return Codes("own", classes, Split(images=images, labels=labels), np.zeros((200, 3)), np.ones((200, 3)))


@pytest.mark.parametrize("thumbnails", [False, True])
def test_the_map_has_a_colour_a_shape_and_a_name_for_each_class(tmp_path, thumbnails):
    codes, labels = clusters()
    places = latent.project(codes, perplexity=10)
    figure = latent.draw(codes_of(labels, tuple("abcde")), places, "title", thumbnails=thumbnails)
    (axes,) = figure.axes
    for label, points in enumerate(axes.collections):
        assert np.allclose(points.get_offsets(), places[labels == label]) and points.get_label() == "abcde"[label]
        assert np.allclose(points.get_facecolor()[0, :3], to_rgb(style.OKABE_ITO[label]))
    assert len(axes.collections) == 5
    (legend,) = legends(figure)
    assert [text.get_text() for text in legend.get_texts()] == list("abcde")
    written = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(written) == (set() if thumbnails else set("abcde"))
    for name, place in written.items():
        assert np.allclose(place, np.median(places[labels == "abcde".index(name)], axis=0))
    style.save(figure, tmp_path / "map.png")
    assert (np.abs(picture(tmp_path / "map.png").astype(int) - [0, 114, 178]).max(-1) <= 2).sum() > 100


def test_thumbnails_lie_at_their_places_and_do_not_overlap():
    codes, labels = clusters()
    places = latent.project(codes, "pca")
    of = codes_of(labels, tuple("abcde"))
    figure = latent.draw(of, places, "title", thumbnails=True)
    images = figure.axes[0].images
    assert 5 < len(images) < 200
    boxes = np.array([image.get_extent() for image in images])  # left, right, bottom, top
    middles = np.stack([boxes[:, :2].mean(1), boxes[:, 2:].mean(1)], axis=1)
    for image, middle in zip(images, middles, strict=True):
        index = int(np.abs(places - middle).sum(1).argmin())
        assert np.allclose(places[index], middle, atol=1e-3)
        assert np.array_equal(np.asarray(image.get_array()), of.images.images[index].transpose(1, 2, 0))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]
    figure.draw_without_rendering()
    (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert left < places[:, 0].min() and places[:, 0].max() < right
    assert low < places[:, 1].min() and places[:, 1].max() < high


def test_data_without_labels_have_one_colour_and_no_legend():
    figure = latent.draw(codes_of(None, None), latent.project(clusters()[0], "pca"), "title", thumbnails=True)
    assert len(figure.axes[0].collections) == 1 and not legends(figure) and not figure.axes[0].texts


def test_classes_that_are_mixed_are_not_named_in_the_middle():
    places = np.random.default_rng(0).standard_normal((200, 2))
    figure = latent.draw(codes_of(np.arange(200) % 5, tuple("abcde")), places, "title")
    assert not figure.axes[0].texts and len(legends(figure)) == 1


def test_names_that_would_cover_each_other_are_left_to_the_legend(tmp_path):
    classes = tuple(f"a name of some length {i}" for i in range(50))
    labels = np.arange(200) % 50
    middles = np.stack([np.arange(50) % 7, np.arange(50) // 7], axis=1)
    figure = latent.draw(codes_of(labels, classes), middles[labels] + np.random.default_rng(0).random((200, 2)) / 9, "")
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 5 < len(boxes) < 50 and all(not a.count_overlaps(boxes[:i]) for i, a in enumerate(boxes))
    assert len(legends(figure)[0].get_texts()) == 50
    style.save(figure, tmp_path / "map.png")
    assert picture(tmp_path / "map.png").shape[1] > 1.3 * picture(tmp_path / "map.png").shape[0]  # the legend's room


def test_the_codes_of_a_model_without_labels_are_coloured_by_the_datas(plot, trained, shown):
    facts = plot("latent", trained["plain"], "--limit", 200, "--out", "codes.png", "--json").facts
    assert facts == {
        "out": "codes.png", "model": "plain", "data": "digits", "split": "test", "images": 200, "method": "tsne"
    }  # fmt: skip
    pixels = picture("codes.png")
    assert pixels.shape[0] > 900 and pixels.shape[1] > 1_000
    assert len(shown[0].axes[0].collections) == 10
    # The model has found the classes without being told them: most neighbours are of the same one.
    points = [np.asarray(each.get_offsets()) for each in shown[0].axes[0].collections]
    places, labels = np.concatenate(points), np.repeat(range(10), [len(each) for each in points])
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 200)
    assert (labels[distance.argmin(1)] == labels).mean() > 0.6


def test_the_codes_of_a_conditional_model_come_with_a_word_on_what_they_lack(plot, trained):
    done = plot("latent", trained["labels"], "--limit", 50, "--perplexity", 5, "--thumbnails", "--out", "a.svg")
    assert done.code == 0 and done.out == "a.svg (50 images)\n" and "expect the classes to be mixed" in done.err
    assert ElementTree.parse("a.svg").getroot().tag.endswith("svg")


def test_other_data_and_splits_are_encoded(plot, trained):
    np.savez("own.npz", train=np.zeros((9, 8, 8), np.uint8), test=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
    flags = ["--data", "npz:own.npz", "--method", "pca", "--json"]
    facts = plot("latent", trained["plain"], *flags).facts
    assert (facts["data"], facts["images"]) == ("own", 10)
    assert plot("latent", trained["plain"], "--split", "validation", "--method", "pca", "--json").facts["images"] == 144


def test_umap_names_its_package(refused, trained, monkeypatch):
    monkeypatch.setattr(latent, "find_spec", lambda name: None)
    refused(1, ["pip install umap-learn"], "latent", trained["plain"], "--method", "umap")


def test_umap_draws_by_the_seed(monkeypatch):
    class UMAP:
        def __init__(self, random_state: int, n_jobs: int) -> None:
            self.seed = random_state

        def fit_transform(self, codes: np.ndarray) -> np.ndarray:
            return codes[:, :2] + self.seed

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP, __spec__=True))
    codes = clusters()[0]
    assert np.array_equal(latent.project(codes, "umap", seed=3), codes[:, :2] + 3)


# -- reconstructions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_reconstructions_stand_below_their_images(plot, trained, shown, kind):
    facts = plot("reconstructions", trained[kind], "-n", 5, "--columns", 3, "--json").facts
    assert (facts["images"], facts["data"], facts["split"]) == (5, "digits", "test")
    found = cells(shown[0], 4, 3)
    test = subsample(load_dataset(TrainConfig()).test, 5)
    images = test.images / np.float32(255)
    again = package.load(trained[kind]).reconstruct(images, test.labels if kind == "labels" else None)
    assert close(found[0], images[:3]) and close(found[1], again[:3])
    assert close(found[2, :2], images[3:]) and close(found[3, :2], again[3:])
    assert (found[2:, 2] == 255).all() and names(shown[0])[0] == ["image", "reconstruction"] * 2
    picture("reconstructions.png")


# -- traverse ----------------------------------------------------------------------------------------------------------


def test_one_number_of_the_code_varies_at_a_time():
    code = np.arange(4, dtype=np.float32)
    codes = traverse.traversal_codes(code, np.array([2, 0]), np.array([-1, 0, 5], np.float32)).reshape(2, 3, 4)
    assert codes[0].tolist() == [[0, 1, -1, 3], [0, 1, 0, 3], [0, 1, 5, 3]]
    assert codes[1].tolist() == [[-1, 1, 2, 3], [0, 1, 2, 3], [5, 1, 2, 3]]
    assert traverse.top_dimensions(np.array([0.5, 2, 0.1, 3]), 3).tolist() == [3, 1, 0]


def own_picture() -> np.ndarray:
    """picture.png, and its pixels (1, 1, 8, 8) in [0, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("picture.png")
    return pixels[None, None] / np.float32(255)


@pytest.mark.parametrize("start", [[], ["--seed", "3"], ["--image", "picture.png"]], ids=str)
@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_the_rows_are_decoded_from_the_codes(plot, trained, shown, kind, start):
    model, image = package.load(trained[kind]), own_picture()
    label = 4 if kind == "labels" else None
    flags = ["--digit", 4] if kind == "labels" else []
    facts = plot("traverse", trained[kind], *start, *flags, "--dimensions", 3, "--steps", 5, "--json").facts
    code = {"--seed": model.noise(1, 3), "--image": model.encode(image, label)[0]}.get(
        start[0] if start else "", np.zeros((1, 8), np.float32)
    )
    kl = encode(model, TrainConfig(data="digits")).kl()
    order = sorted(range(8), key=lambda d: -kl[d])[:3]
    assert facts["dimensions"] == order and np.allclose(facts["kl"], kl[order])
    assert facts["values"] == [-3, -1.5, 0, 1.5, 3] and facts["images"] == 359
    assert facts["label"] == (None if label is None else "4")
    codes = np.repeat(code, 15, axis=0)
    for row, dimension in enumerate(order):
        codes[5 * row : 5 * row + 5, dimension] = facts["values"]
    assert close(cells(shown[0], 3, 5), model.decode(codes, label))
    rows, columns = names(shown[0])
    assert rows == [f"z{d}  {kl[d]:.2f} nats" for d in order] and columns == ["-3", "-1.5", "0", "+1.5", "+3"]
    pixels = picture("traverse.png")
    assert pixels.shape[1] > pixels.shape[0] > 250


def test_without_a_label_the_class_taken_is_told(plot, trained):
    done = plot("traverse", trained["labels"], "--json")
    assert done.facts["label"] == "0" and "'0', the first" in done.err and len(done.facts["dimensions"]) == 8
    own_picture()
    done = plot("traverse", trained["labels"], "--image", "picture.png", "--json")
    assert f"'{done.facts['label']}' fits it best" in done.err


# -- grid --------------------------------------------------------------------------------------------------------------


def test_a_column_of_the_grid_is_one_style(plot, trained, shown):
    facts = plot("grid", trained["labels"], "--seed", 4, "--columns", 3, "--json").facts
    assert facts["seed"] == 4 and facts["classes"] == list("0123456789")
    model = package.load(trained["labels"])
    noise = model.noise(3, 4)
    images = np.concatenate([model.decode(noise, label) for label in range(10)])
    assert close(cells(shown[0], 10, 3), images) and names(shown[0])[0] == list("0123456789")
    picture("grid.png")


def test_the_seed_of_a_grid_is_told(plot, trained):
    first, second = (plot("grid", trained["labels"], "--json").facts["seed"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(("kind", "flags"), [("plain", []), ("labels", ["--digit", "7"])])
def test_the_plane_of_a_code_is_drawn_at_the_normal_quantiles(plot, plane, shown, kind, flags):
    from scipy.stats import norm

    plot("grid", plane[kind], *flags, "--columns", 4, "--json")
    values = norm.ppf([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    codes = np.array([[across, down] for down in values for across in values], np.float32)
    images = package.load(plane[kind]).decode(codes, 7 if flags else None)
    assert close(cells(shown[0], 4, 4), images)
    assert names(shown[0]) == (["-1.2", "-0.3", "+0.3", "+1.2"],) * 2


def test_classes_come_before_the_plane(plot, plane, shown):
    assert plot("grid", plane["labels"], "--json").facts["columns"] == 10
    assert cells(shown[0], 10, 10).shape == (10, 10, 8, 8)
    assert plot("grid", plane["plain"], "--json").facts["columns"] == 20


def test_many_columns_are_named_where_there_is_room(plane):
    across = names(grid.manifold(package.load(plane["plain"]), None, 60, ""))[1]
    assert len(across) == 60 and [bool(name) for name in across] == [True, False, False] * 20


# -- losses ------------------------------------------------------------------------------------------------------------


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_curves_are_those_recorded(plot, trained, shown):
    done = plot("losses", trained["labels"], trained["plain"], "--json")
    assert done.facts == {"out": "losses.png", "epochs": {"labels": 20, "plain": 20}}
    panels = shown[0].axes
    assert [axes.get_title().split()[0] for axes in panels] == ["bound", "distortion", "rate"]
    for axes, term in zip(panels, ("bound", "distortion", "rate"), strict=True):
        lines = iter(axes.lines)
        for run, colour in zip(trained.values(), style.OKABE_ITO, strict=False):
            *epochs, last = records(run)
            for split in ("train", "validation"):
                line = next(lines)
                assert line.get_xdata().tolist() == list(range(1, 21)) and line.get_color() == colour
                assert line.get_ydata().tolist() == [record[split][term] for record in epochs]
                assert line.is_dashed() == (split == "train")
            line = next(lines)
            assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([20], [last["test"][term]])
        assert next(lines, None) is None
    (legend,) = shown[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["labels", "plain", "train", "validation", "test"]
    assert picture("losses.png").shape[1] > 1_500


def history(values: list[float]) -> losses.Records:
    return [
        {"epoch": epoch, "train": {"bound": value, "distortion": value / 2, "rate": -value}}
        for epoch, value in enumerate(values, 1)
    ]


def test_the_first_epochs_do_not_flatten_the_rest_and_are_mentioned():
    figure = losses.draw({"run": history([1_000, *np.linspace(120, 100, 19)])})
    bound, distortion, rate = figure.axes
    assert bound.get_ylim()[1] < 130 and distortion.get_ylim()[1] < 65 and rate.get_ylim()[0] > -130
    assert bound.get_ylim()[0] < 100 and rate.get_ylim()[1] > -100
    assert [axes.texts[0].get_text() for axes in (bound, distortion, rate)] == [
        "first epochs above, up to 1000.0", "first epochs above, up to 500.0", "first epochs below, down to -1000.0"
    ]  # fmt: skip
    for values in ([1_000, 120, 100], [5.0], [5.0, 5.0], [float("nan")], [float("inf"), 1.0]):
        (first, *_) = losses.draw({"run": history(values)}).axes
        assert not first.texts, values
    assert losses.draw({"run": history([5.0])}).axes[0].lines[0].get_marker() == "o"


def test_runs_of_one_name_are_told_apart(plot, trained):
    for folder in "ab":
        shutil.copytree(trained["plain"], f"{folder}/run")
    done = plot("losses", "a/run", "b/run", ZOO, "--json")
    assert set(done.facts["epochs"]) == {"a/run", "b/run", ZOO}


# -- progress ----------------------------------------------------------------------------------------------------------


def test_the_rows_are_cut_from_the_samples(plot, trained, shown):
    facts = plot("progress", trained["plain"], "--epochs", "1,10,20", "--json").facts
    assert facts["epochs"] == [1, 10, 20]
    found = cells(shown[0], 4, 8)
    for row, epoch in enumerate((1, 10, 20), 1):
        with Image.open(trained["plain"] / f"samples/epoch-{epoch:04d}-reconstructions.png") as file:
            sample = np.asarray(file)
        assert sample.shape == (17, 71)
        for column in range(8):
            across = slice(9 * column, 9 * column + 8)
            assert np.array_equal(found[0, column], sample[:8, across])
            assert np.array_equal(found[row, column], sample[9:, across])
    assert names(shown[0])[0] == ["original", "epoch 1", "epoch 10", "epoch 20"]
    picture("progress.png")


def test_the_epochs_are_chosen_evenly(plot, trained):
    shutil.copytree(trained["plain"], "runs/mine")
    done = plot("progress", "--json")
    assert "newest run: runs/mine" in done.err
    assert done.facts["epochs"] == progress.choose_epochs(list(range(21)), None) == [0, 3, 6, 9, 11, 14, 17, 20]
    assert progress.choose_epochs([3], None) == [3] and progress.choose_epochs([1, 5], None) == [1, 5]


def test_large_and_coloured_pictures_are_cut_too(tmp_path):
    from cvae import imaging

    images = np.random.default_rng(0).integers(0, 256, (6, 3, 60, 40), np.uint8)
    imaging.save(imaging.grid(images / np.float32(255), columns=3), tmp_path / "pairs.png")
    above, below = progress.split_sample(tmp_path / "pairs.png", (3, 60, 40))
    assert np.array_equal(above, images[:3]) and np.array_equal(below, images[3:])
    for shape in ((3, 60, 41), (3, 59, 40)):
        with pytest.raises(CvaeError, match=r"pairs\.png' has 124x122 pixels"):
            progress.split_sample(tmp_path / "pairs.png", shape)


# -- refusals ----------------------------------------------------------------------------------------------------------

BAD = {
    "no run": (2, "latent empty-folder", ["'empty-folder'"]),
    "near name": (2, "losses runs-plian", ["'runs-plian'", "known"]),
    "ending": (2, "latent {plain} --out x.pdf", ["'x.pdf'", "'.pdf'", ".svg"]),
    "no ending": (2, "grid {labels} --out x", ["'x'", ".png"]),
    "under a file": (1, "grid {labels} --out text.png/x.png", ["'text.png/x.png'"]),
    "method": (2, "latent {plain} --method snet", ["'snet'"]),
    "few images": (2, "latent {plain} --limit 20", ["--perplexity 30", "are 20", "--perplexity 6"]),
    "too few": (2, "latent {plain} --limit 2", ["2 codes", "--limit"]),
    "split": (2, "latent {plain} --split tset", ["'tset'"]),
    "data": (2, "traverse {plain} --data digit", ["'digits'"]),
    "no such data": (2, "latent {plain} --data npz:nowhere.npz", ["nowhere.npz"]),
    "all the same": (2, "latent {plain} --data npz:same.npz", ["40 codes are the same"]),
    "channels": (2, "latent {plain} --data npz:colour.npz", ["3 channels", "made for 1"]),
    "size": (2, "traverse {plain} --size 16", ["(1, 16, 16)", "--size"]),
    "picture": (1, "traverse {labels} --image text.png", ["'text.png'", "as an image"]),
    "no picture": (1, "traverse {labels} --image none.png", ["'none.png'"]),
    "no reconstructions": (1, "reconstructions alone/decoder.onnx", ["encoder.onnx"]),
    "reconstructions split": (2, "reconstructions {plain} --split tset", ["'tset'", "test"]),
    "two starts": (2, "traverse {labels} --image text.png --seed 1", ["--image 'text.png'", "--seed 1", "give one"]),
    "label": (2, "traverse {labels} --label x", ["'x'", "0, 1, 2"]),
    "no labels": (2, "traverse {plain} --label 1", ["without labels"]),
    "two labels": (2, "grid {labels} --label 1 --digit 2", ["'1'", "'2'", "give one"]),
    "no plane": (2, "grid {plain}", ["8 numbers", "cvae generate ", " -n 64, or: cvae plot traverse "]),
    "no plane of a class": (2, "grid {labels} --label 3", ["8 numbers", "cvae generate ", " -n 64 --label 3"]),
    "no metrics": (1, "losses raw", ["metrics.jsonl", "cvae train"]),
    "no samples": (1, f"progress {ZOO}", ["samples/"]),
    "not saved": (2, "progress {plain} --epochs 1,99", ["99", "1, 2, 3"]),
    "no epochs": (2, "progress {plain} --epochs 1-5", ["'1-5'", "0,1,2"]),
    "not exported": (1, "latent raw", ["cvae export onnx raw"]),
    "no encoder": (1, "traverse alone/decoder.onnx", ["encoder.onnx"]),
}  # fmt: skip


@pytest.mark.parametrize(("code", "command", "words"), BAD.values(), ids=BAD)
def test_wrong_use_is_one_line(refused, trained, code, command, words):
    Path("empty-folder").mkdir()
    Path("text.png").write_text("this is no picture")
    np.savez("same.npz", train=np.zeros((2, 1, 8, 8), np.uint8), test=np.zeros((40, 1, 8, 8), np.uint8))
    np.savez("colour.npz", train=np.zeros((2, 3, 8, 8), np.uint8), test=np.zeros((40, 3, 8, 8), np.uint8))
    shutil.copytree(trained["plain"], "raw", ignore=shutil.ignore_patterns("*.onnx", "*.jsonl", "samples"))
    Path("alone").mkdir()
    shutil.copy(trained["plain"] / "decoder.onnx", "alone")
    refused(code, words, *[word.format(**trained) for word in command.split()])


def test_a_seed_means_nothing_to_a_plane(refused, plane):
    refused(2, ["--seed 3"], "grid", plane["plain"], "--seed", 3)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}\n", '{"epoch": 1}\n', '{"epoch": 1, "train": {"bound": 1}}', "\xff", "[" * 100_000,
     '{"epoch": "1", "train": {"bound": 1, "distortion": 1, "rate": 0}}',
     '{"epoch": 1, "train": {"bound": "1", "distortion": 1, "rate": 0}}'],
    ids=repr,
)  # fmt: skip
def test_damaged_metrics_are_refused(refused, trained, text):
    shutil.copytree(trained["plain"], "run")
    Path("run/metrics.jsonl").write_text(text, "latin1")
    refused(1, ["'run/metrics.jsonl'"], "losses", "run")


def test_more_runs_than_colours_are_refused():
    with pytest.raises(UsageError, match="11 runs: at most 10"):
        losses.draw({str(i): history([1.0]) for i in range(11)})


def test_damaged_samples_are_refused(refused, trained):
    shutil.copytree(trained["plain"], "run")
    path = Path("run/samples/epoch-0000-reconstructions.png")
    path.write_bytes(path.read_bytes()[:50])
    refused(1, ["epoch-0000-reconstructions.png"], "progress", "run")


def test_the_extra_is_named_where_it_is_missing(refused, trained, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for command in (["latent"], ["traverse"], ["reconstructions"], ["grid"], ["losses"], ["progress"]):
        refused(1, ["pip install 'cvae-onnx[plot]'"], *command, trained["labels"])


def test_no_figure_needs_torch(trained, tmp_path):
    program = """if True:
        import sys
        from cvae.cli import app
        for command in (["latent", "--method", "pca"], ["traverse"], ["losses"], ["progress"]):
            app(["plot", *command, sys.argv[1]], standalone_mode=False)
        app(["plot", "grid", sys.argv[2]], standalone_mode=False)
        print(*{"torch", "torchvision", "onnx", "safetensors", "matplotlib.pyplot"} & set(sys.modules))
    """
    command = [sys.executable, "-W", "error", "-c", program, str(trained["plain"]), str(trained["labels"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "", done.stderr
    assert all(line.startswith("digits: ") for line in done.stderr.splitlines()), done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_what_is_left_out_of_a_folder_is_said(plot, trained):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    Path("set").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(f"set/{i}.png")
    Path("set/notes.txt").write_text("no image")
    flags = ["--data", "folder:set", "--size", 8, "--split", "train", "--json"]
    done = plot("reconstructions", trained["plain"], *flags)
    assert json.loads(done.out)["images"] > 0
    assert done.err.splitlines()[:2] == ["left out, not readable as images: 1 .txt file", "set: 6 training images"]
