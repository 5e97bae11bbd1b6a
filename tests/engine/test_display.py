"""Output of a training run: fields, the table of epochs, the progress bar, and warnings."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import QUICK
from rich.console import Console

from cvae.config import TrainConfig
from cvae.data import Dataset, Split, load_dataset
from cvae.engine import train
from cvae.engine.display import COLUMNS, Display, EpochTable
from cvae.engine.resolve import configure
from cvae.engine.summary import describe_contention, describe_run
from cvae.messages import format_nats, format_seconds

RECORD = {
    "epoch": 1,
    "step": 10,
    "train": {"loss": -12_345.678, "distortion": -12_400.0, "rate": 54.322},
    "images_per_second": 1234.5,
}


def open_table(display: Display, epochs: int = 3, *, done: int = 0) -> EpochTable:
    return EpochTable(display, total_steps=10 * epochs, steps=10, done=done, has_validation=True)


def test_table_in_a_file_has_aligned_rows_without_control_characters(capsys):
    with open_table(Display()) as table:
        table.update(5, RECORD["train"], 1000.0)
        table.epoch(RECORD, -12_000.0, has_improved=True)
        table.epoch({**RECORD, "epoch": 2, "step": 20}, -11_999.0, has_improved=False)
        table.epoch({**RECORD, "epoch": 3, "step": 30}, None, has_improved=False)
    result = capsys.readouterr()
    _, legend, title, *rows = result.err.splitlines()
    assert result.out == "" and result.err.replace("\n", "").isprintable()
    assert "nats" in legend and re.split("  +", title.strip()) == list(COLUMNS)
    assert [row.split()[:6] for row in rows] == [
        ["1/3", "-12,345.68", "-12,400.00", "54.32", "-12,000.00", "*"],
        ["2/3", "-12,345.68", "-12,400.00", "54.32", "-11,999.00", "1,234"],
        ["3/3", "-12,345.68", "-12,400.00", "54.32", "-", "1,234"],
    ]
    assert {len(line) for line in (title, *rows)} == {sum(COLUMNS.values())} and sum(COLUMNS.values()) < 80


def test_long_epoch_prints_one_row_per_minute_to_a_file(capsys, monkeypatch):
    with open_table(Display()) as table:
        later = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: later)
        table.update(14, RECORD["train"], 1000.0)
        table.update(15, RECORD["train"], 1000.0)
    (row,) = capsys.readouterr().err.splitlines()[3:]
    assert row.split()[:2] == ["1.4/3", "-12,345.68"]


def test_terminal_shows_a_progress_bar_below_the_rows(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("cvae.engine.display.Console", lambda **options: Console(**options, width=80))
    display = Display()
    assert display.is_live
    with open_table(display, 150, done=15) as table:
        table.update(17, RECORD["train"], 1000.0)
        table.bar.refresh()
        table.epoch(RECORD, 3.0, has_improved=True)
    output = capsys.readouterr().err
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    bars = [line for line in re.split(r"[\r\n]+", plain) if line.startswith("epoch 2/150")]
    assert "images/s" in bars[-1] and all(len(line) <= 80 for line in bars)
    assert any("3.00 *" in line for line in plain.splitlines())


def test_notebook_gets_plain_text_on_standard_output(monkeypatch, capsys):
    """The table is not written to standard error, which a notebook shows on a red background."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with open_table(Display()) as table:
        table.epoch(RECORD, None, has_improved=False)
    result = capsys.readouterr()
    assert result.err == "" and result.out.replace("\n", "").isprintable() and result.out.count("\n") == 4


def test_quiet_display_prints_nothing(capsys):
    display = Display(quiet=True)
    display.fields({"model": "mlp"})
    display.warning("a cause; a fix")
    with display.status("waiting"), open_table(display) as table:
        table.epoch(RECORD, None, has_improved=False)
    assert capsys.readouterr() == ("", "")


def test_fields_are_wrapped_only_between_items(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Display().fields({"model": "small", "classes": ", ".join(f"name{i}\xa0{i}" for i in range(9))})
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "model        small"
    assert lines[0].startswith("classes      name0 0, ") and all(line.startswith(" " * 13) for line in lines[1:])
    assert all(len(line) <= 40 and re.search(r"name\d \d,?$", line) for line in lines)


def test_warning_is_printed_in_one_line_with_the_usual_prefix(capsys):
    Display().warning("a cause;\n a fix")
    assert capsys.readouterr().err == "cvae: warning: a cause; a fix\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7500, "2 h 05 min"), (4e6, "1,111 h 06 min")],
)
def test_times_are_formatted_in_suitable_units(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("value", [0, -1234.567, 99_999.99, -123_456.7, 9_999_999, -1e7, 3e38])
def test_number_of_nats_fits_into_its_column(value):
    assert len(format_nats(value)) <= 10 and float(format_nats(value).replace(",", "")) == pytest.approx(value, 1e-2)


def test_header_counts_the_images_of_each_class():
    dataset = load_dataset(QUICK)
    fields = describe(dataset, replace(QUICK, batch_size=20))
    assert fields["data"] == "digits: 600 training + 144 validation + 359 test images, 8x8 grey"
    assert sum(int(text.split("\xa0")[1]) for text in fields["classes"].split(", ")) == 600
    assert fields["training"] == "3 epochs of 30 steps, batches of 20"


def test_header_shortens_many_classes_and_removes_control_characters():
    names = ("a\x1b[2J\nb", "x" * 99, *(f"class {i}" for i in range(98)))
    labels = np.arange(600) % 100
    dataset = replace(load_dataset(QUICK), train=split(labels), classes=names)
    fields = describe(dataset, replace(QUICK, conditional=False))
    first, second, *_, last = fields["classes"].split(", ")
    assert (
        first == "a?[2J b\xa06"
        and second == f"{'x' * 17}...\xa06"
        and last == "and 88 more classes of 6 to 6 images each"
    )


def test_header_explains_the_batch_size_of_a_small_data_set():
    dataset = replace(load_dataset(QUICK), train=split(np.arange(30) % 10))
    assert describe(dataset, replace(QUICK, batch_size=None, patience=4))["training"] == (
        "3 epochs of 3 steps, batches of 8 for a small data set; ends after 4 epochs without improvement"
    )


def split(labels: np.ndarray) -> Split:
    return Split(images=np.zeros((len(labels), 1, 8, 8), np.uint8), labels=labels.astype(np.int64))


def describe(dataset: Dataset, training: TrainConfig) -> dict[str, str]:
    config = configure(training, dataset)
    steps = len(dataset.train) // config.training.batch_size
    return describe_run(config, dataset, parameters=1, steps=steps, device=torch.device("cpu"), processes=1)


@pytest.mark.integration
def test_training_prints_header_table_and_summary(tmp_path, capsys):
    train(replace(QUICK, epochs=60, limit=64), tmp_path / "run")
    result = capsys.readouterr()
    assert result.out == "" and result.err.replace("\n", "").isprintable()
    names = [line.partition(" ")[0] for line in result.err.splitlines()]
    assert [name for name in names if name] == [
        "model", "data", "classes", "training", "device", "run", "nats", "best", "test", "time",
    ]  # fmt: skip
    rows = [line.split() for line in result.err.splitlines() if re.match(r" *\d+/60 ", line)]
    assert [row[0] for row in rows] == ["1/60", *(f"{epoch}/60" for epoch in range(5, 61, 5))]
    assert "*" in rows[0]
    assert all(len(line) <= 80 for line in result.err.splitlines() if not line.startswith("run"))


def test_busy_processor_is_reported_for_one_cpu_process_with_several_threads(monkeypatch):
    cpu, usage = torch.device("cpu"), {"percent": 95.0}
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: usage["percent"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "95% of the processor" in (describe_contention(cpu, 1) or "")
    assert describe_contention(torch.device("cuda"), 1) is describe_contention(cpu, 2) is None
    usage["percent"] = 10.0
    assert describe_contention(cpu, 1) is None
    usage["percent"] = 95.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_contention(cpu, 1) is None
