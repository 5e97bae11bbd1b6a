"""`cvae plot losses` draws the metrics of runs, and `cvae plot progress` the sample images of a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plot_helpers import ZOO, cells, names, read_pixels

from cvae.errors import CvaeError, UsageError
from cvae.plots import losses, progress, style

# -- losses ------------------------------------------------------------------------------------------------------------


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_loss_curves_show_the_recorded_metrics(plot, trained, saved_figures):
    result = plot("losses", trained["labels"], trained["plain"], "--json")
    assert result.json == {"out": "losses.png", "epochs": {"labels": 20, "plain": 20}}
    panels = saved_figures[0].axes
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
            best = min(epochs, key=lambda record: record["validation"]["bound"])["epoch"]
            assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([best], [last["test"][term]])
        assert next(lines, None) is None
    (legend,) = saved_figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["labels", "plain", "train", "validation", "test"]
    assert read_pixels("losses.png").shape[1] > 1_500


def history(values: list[float]) -> losses.Records:
    return [
        {"epoch": epoch, "train": {"bound": value, "distortion": value / 2, "rate": -value}}
        for epoch, value in enumerate(values, 1)
    ]


def test_metrics_of_the_test_split_are_drawn_at_the_epoch_of_the_saved_weights():
    epochs = [{**record, "validation": record["train"]} for record in history([3.0, 1.0, 2.0])]
    assert losses.curve([*epochs, {"test": epochs[0]["train"]}], "test", "bound") == ([2], [3.0])
    # The importance-weighted bound takes precedence over the plain bound.
    epochs[2]["validation"] = {**epochs[2]["validation"], "importance_weighted": 0.5}
    assert losses.saved_epoch(epochs) == 3


def test_high_losses_of_first_epochs_are_clipped_and_noted():
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


def test_runs_with_the_same_name_are_distinguished(plot, trained):
    for folder in "ab":
        shutil.copytree(trained["plain"], f"{folder}/run")
    result = plot("losses", "a/run", "b/run", ZOO, "--json")
    assert set(result.json["epochs"]) == {"a/run", "b/run", ZOO}


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_rows_are_cut_from_sample_images(plot, trained, saved_figures):
    report = plot("progress", trained["plain"], "--epochs", "1,10,20", "--json").json
    assert report["epochs"] == [1, 10, 20]
    actual = cells(saved_figures[0], 4, 8)
    for row, epoch in enumerate((1, 10, 20), 1):
        with Image.open(trained["plain"] / f"samples/epoch-{epoch:04d}-reconstructions.png") as file:
            sample = np.asarray(file)
        assert sample.shape == (17, 71)
        for column in range(8):
            pixels = slice(9 * column, 9 * column + 8)
            assert np.array_equal(actual[0, column], sample[:8, pixels])
            assert np.array_equal(actual[row, column], sample[9:, pixels])
    assert names(saved_figures[0])[0] == ["original", "epoch 1", "epoch 10", "epoch 20"]
    read_pixels("progress.png")


def test_progress_shows_evenly_spaced_epochs_by_default(plot, trained):
    shutil.copytree(trained["plain"], "runs/mine")
    result = plot("progress", "--json")
    assert "newest run: runs/mine" in result.err
    assert result.json["epochs"] == progress.choose_epochs(list(range(21)), None) == [0, 3, 6, 9, 11, 14, 17, 20]
    assert progress.choose_epochs([3], None) == [3] and progress.choose_epochs([1, 5], None) == [1, 5]


def test_large_and_coloured_sample_images_can_be_split(tmp_path):
    from cvae import imaging

    images = np.random.default_rng(0).integers(0, 256, (6, 3, 60, 40), np.uint8)
    imaging.save(imaging.grid(images / np.float32(255), columns=3), tmp_path / "pairs.png")
    above, below = progress.split_sample(tmp_path / "pairs.png", (3, 60, 40))
    assert np.array_equal(above, images[:3]) and np.array_equal(below, images[3:])
    for shape in ((3, 60, 41), (3, 59, 40)):
        with pytest.raises(CvaeError, match=r"pairs\.png' has 124x122 pixels"):
            progress.split_sample(tmp_path / "pairs.png", shape)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}\n", '{"epoch": 1}\n', '{"epoch": 1, "train": {"bound": 1}}', "\xff", "[" * 100_000,
     '{"epoch": "1", "train": {"bound": 1, "distortion": 1, "rate": 0}}',
     '{"epoch": 1, "train": {"bound": "1", "distortion": 1, "rate": 0}}'],
    ids=repr,
)  # fmt: skip
def test_damaged_metrics_are_rejected(assert_fails, trained, text):
    shutil.copytree(trained["plain"], "run")
    Path("run/metrics.jsonl").write_text(text, "latin1")
    assert_fails(1, ["'run/metrics.jsonl'"], "losses", "run")


def test_more_runs_than_colours_are_rejected():
    with pytest.raises(UsageError, match="11 runs: at most 10"):
        losses.draw({str(i): history([1.0]) for i in range(11)})


def test_damaged_sample_images_are_rejected(assert_fails, trained):
    shutil.copytree(trained["plain"], "run")
    path = Path("run/samples/epoch-0000-reconstructions.png")
    path.write_bytes(path.read_bytes()[:50])
    assert_fails(1, ["epoch-0000-reconstructions.png"], "progress", "run")
