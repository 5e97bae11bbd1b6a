"""`cvae runs`: the table of runs."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvae import model_zoo
from cvae.data import array_store
from cvae.data.collect import collect
from cvae.run import compare_runs, is_finished

CONFIG = json.loads((model_zoo.models()["mnist-ladder"] / "config.json").read_text())


def make_run(name: str, mtime: int, epochs: int, *, test: bool, options: dict[str, Any], **flags: Any) -> Path:
    """Write a run with a total of three epochs, of which `epochs` are done; each took 100 s."""
    run = Path("runs", name)
    (run / "last").mkdir(parents=True)
    config = json.loads(json.dumps(CONFIG))
    config["training"] |= {"epochs": 3, "lr": 0.002, **flags}
    for part, values in options.items():
        config["model"][{"arch": "architecture"}.get(part, part)] = values
    (run / "config.json").write_text(json.dumps(config))
    bounds = [90.0, 80.0, 85.0]
    records: list[dict[str, Any]] = [
        {"epoch": epoch + 1, "seconds": 100.0, "validation": {"bound": bounds[epoch]}} for epoch in range(epochs)
    ]
    records += [{"step": 9, "test": {"bound": 81.0}}] if test else []
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in (run / "last" / "step.json", run / "config.json"):
        path.touch()
        os.utime(path, (mtime, mtime))
    return run


@pytest.fixture
def three_runs(in_tmp):
    flow = {"name": "flow", "options": {"couplings": 8, "hidden": 128}}
    make_run("first", 1_000, 3, test=True, options={"prior": flow}, lr=0.001)
    make_run("second", 2_000, 2, test=False, options={"prior": {**flow, "options": {"couplings": 4, "hidden": 128}}})
    normal = {"name": "normal", "options": {}}
    make_run("third", 3_000, 0, test=False, options={"prior": normal}, prior="normal", device="cuda")


def test_runs_are_compared_newest_first(cvae, three_runs):
    third, second, first = cvae("runs", "--json").json["runs"]
    assert [row["run"] for row in (third, second, first)] == ["runs/third", "runs/second", "runs/first"]
    assert (first["finished"], first["epochs"], first["seconds"]) == (True, 3, 300.0)
    assert (first["validation"], first["test"], first["exported"]) == (80.0, 81.0, False)
    assert (second["finished"], second["epochs"], second["total_epochs"], second["test"]) == (False, 2, 3, None)
    assert (third["epochs"], third["validation"], third["seconds"]) == (0, None, 0)
    # The device is never compared, `hidden` is equal, and a normal prior has no couplings.
    assert third["flags"] == {"--prior": "normal", "--lr": 0.002}
    assert second["flags"] == {"--prior": "flow", "--lr": 0.002, "--set prior.couplings": 4}
    assert first["flags"] == {"--prior": "flow", "--lr": 0.001, "--set prior.couplings": 8}


def test_table_marks_unfinished_runs_and_shows_flags_as_typed(cvae, three_runs):
    header, *rows, note = cvae("runs").out.splitlines()
    assert re.split("  +", header) == ["run", "validation", "test", "epochs", "time", "flags that differ"]
    assert [re.split("  +", row) for row in rows] == [
        ["third", "-", "-", "0/3 *", "0 s", "--prior normal --lr 0.002"],
        ["second", "80.00", "-", "2/3 *", "3 min 20 s", "--lr 0.002 --set prior.couplings=4"],
        ["first", "80.00", "81.00", "3", "5 min 00 s", "--lr 0.001 --set prior.couplings=8"],
    ]
    assert note == "* not finished; resume it with: cvae train --resume --out runs/third"


def test_run_with_a_time_budget_is_finished_after_its_last_step(cvae, in_tmp):
    run = make_run("short", 1_000, 0, test=False, options={}, minutes=2.0)
    config = json.loads((run / "config.json").read_text())
    config["training"]["epochs"] = None
    (run / "config.json").write_text(json.dumps(config))
    for steps, mark, finished in ((7, " *", False), (8, "", True)):
        record = {"epoch": 1, "step": steps, "total_steps": 8, "seconds": 100.0, "validation": {"bound": 80.0}}
        (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        _, row, *_ = cvae("runs").out.splitlines()
        assert re.split("  +", row)[:4] == ["short", "80.00", "-", f"1{mark}"] and is_finished(run) == finished
    (run / "metrics.jsonl").write_text('{"step": "x", "total_steps": 8}\n')
    assert not is_finished(run)


def test_table_describes_the_arrays_that_runs_were_trained_on(cvae):
    arrays = collect(np.zeros((500, 32, 40), np.uint8), ["circle", "square"] * 250)
    for i, data in enumerate((array_store.store(arrays, Path("cache")), "arrays:0123456789abcdef", "arrays:../x")):
        make_run(f"run-{i}", i, 3, test=False, options={}, data=data, data_dir="cache")
    _, *rows = cvae("runs").out.splitlines()
    data = array_store.identify(arrays)
    assert [row.partition("--data ")[2] for row in rows] == [
        "arrays:../x", "arrays:0123456789abcdef", f"{data} (500 images of 32x40: circle, square)"
    ]  # fmt: skip


def test_single_run_has_no_flags_that_differ():
    (row,) = compare_runs([model_zoo.models()["mnist-resnet-conditional"]])
    assert row["flags"] == {} and row["finished"] and row["exported"] and row["error"] is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("metrics.jsonl", "x\n"),
        ("metrics.jsonl", '{"epoch": 1, "validation": 3}\n'),
        ("metrics.jsonl", '{"epoch": 1, "validation": {"bound": "x"}}\n'),
        ("metrics.jsonl", '{"epoch": 1, "seconds": "x"}\n'),
        ("metrics.jsonl", '{"epoch": 1, "seconds": NaN}\n'),
    ],
)
def test_damaged_run_is_listed_with_its_error(cvae, three_runs, file, text):
    Path("runs/second", file).write_text(text)
    result = cvae("runs", "--json")
    rows = {row["run"]: row for row in result.json["runs"]}
    assert len(rows) == 3 and rows["runs/second"]["error"] and rows["runs/first"]["flags"]
    assert cvae("runs").out.count("\n") == 5 and not is_finished(Path("runs/second"))


def test_message_for_folder_without_runs_suggests_training(cvae):
    assert cvae("runs") == (0, "", "there is no run under 'runs'; train one with: cvae train\n")
    assert cvae("runs", "--json").json == {"runs": []}


def test_command_suggests_resuming_an_unfinished_run_without_decoder(cvae, three_runs):
    Path("runs/second/model.safetensors").touch()
    result = cvae("generate", "runs/second")
    assert result.code == 1 and "has not finished" in result.err
    assert "cvae train --resume --out runs/second" in result.err and "cvae export onnx runs/second" in result.err
    shutil.copy("runs/first/metrics.jsonl", "runs/second/metrics.jsonl")
    result = cvae("generate", "runs/second")
    assert "create it with: cvae export onnx runs/second" in result.err and "--resume" not in result.err
