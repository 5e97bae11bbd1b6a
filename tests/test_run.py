"""Run folder: its metrics, its sample images, and the newest run."""

import os
from pathlib import Path

import pytest

from cvae.errors import CvaeError
from cvae.run import CONFIG, METRICS, SAMPLES, WEIGHTS, last_saved_run, list_runs, read_metrics, sample_images


def make_run(folder: Path, *, mtime: int, weights: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name in (CONFIG, *[WEIGHTS] * weights):
        (folder / name).touch()
        os.utime(folder / name, (mtime, mtime))
    return folder


def test_read_metrics_returns_a_record_for_each_line(tmp_path):
    (tmp_path / METRICS).write_text('{"epoch": 1}\n{"test": {}}\n')
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"test": {}}]


@pytest.mark.parametrize("line", ["{", "[1]", "7", "[" * 100_000])
def test_read_metrics_names_the_damaged_line(tmp_path, line):
    (tmp_path / METRICS).write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(CvaeError, match=r"metrics\.jsonl' is damaged: line 2 is not (JSON|a JSON object)"):
        read_metrics(tmp_path)


def test_read_metrics_reports_missing_file(tmp_path):
    with pytest.raises(CvaeError, match=r"can't read .*metrics\.jsonl', which cvae train writes: No such file"):
        read_metrics(tmp_path)


def test_sample_images_are_sorted_by_epoch_number(tmp_path):
    (tmp_path / SAMPLES).mkdir()
    for name in ("epoch-10000-samples", "epoch-9999-samples", "epoch-x-samples", "epoch-0001-reconstructions"):
        (tmp_path / SAMPLES / f"{name}.png").touch()
    assert list(sample_images(tmp_path, "samples")) == [9999, 10000]


def test_list_of_runs_requires_weights_but_last_saved_run_does_not(tmp_path):
    first = make_run(tmp_path / "b", mtime=1)
    second = make_run(tmp_path / "a", mtime=2)
    started = make_run(tmp_path / "c", mtime=3, weights=False)
    assert list_runs(tmp_path) == [second, first] and last_saved_run(tmp_path) == started
    assert last_saved_run(tmp_path / "none") is None and list_runs(tmp_path / "none") == []
