"""Steps of `cvae.train` and `cvae.resume` after training: the export, the curves, and the suggested commands."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import cvae
from cvae import model_zoo
from cvae.api.training import _next_commands
from cvae.config import TrainConfig
from cvae.errors import CvaeError, Diverged, Interrupted
from cvae.run import CURVES, DECODER, RECONSTRUCTIONS, SAMPLE_GRID

QUICK = TrainConfig(arch="mlp", conditional=True, epochs=1, limit=64, latent_dim=4, trackers=("none",))


@pytest.fixture
def exporter(monkeypatch) -> Callable[[Exception | None], list[Path]]:
    """Return a function that replaces the export with a failure or a stub, and returns the list of exported runs."""
    runs: list[Path] = []

    def replace_export(failure: BaseException | None = None) -> list[Path]:
        def export(run: Path, **options: object) -> list[Path]:
            runs.append(run)
            if failure is not None:
                raise failure
            return [model_zoo.models()[model_zoo.DEFAULT] / DECODER]

        monkeypatch.setattr("cvae.exporters.onnx.export", export)
        return runs

    return replace_export


@pytest.mark.integration
def test_training_exports_a_usable_model_and_names_its_files(tmp_path, capsys):
    run = cvae.train(replace(QUICK, epochs=2), tmp_path / "run").path
    assert cvae.load(run).generate(2, label=7, seed=0).shape == (2, 1, 8, 8)
    for name in (CURVES, SAMPLE_GRID, RECONSTRUCTIONS):
        with Image.open(run / name) as image:
            assert 500 <= max(image.size) <= (2000 if name == CURVES else 1000), name
    lines = capsys.readouterr().err.splitlines()
    (exported,) = [line for line in lines if line.startswith("export ")]
    assert "decoder.onnx and encoder.onnx, within" in exported
    assert any(line.split() == ["images", "curves.png,", "samples.png,", "reconstructions.png"] for line in lines)
    assert lines[-4] == "next" and lines[-3] == f"  cvae generate {run} --digit 7"
    before = (run / DECODER).read_bytes()
    cvae.resume(run, epochs=3, quiet=True)
    assert (run / DECODER).read_bytes() != before
    assert capsys.readouterr() == ("", "")


@pytest.mark.integration
def test_export_can_be_skipped(tmp_path, exporter, capsys):
    runs = exporter()
    run = cvae.train(QUICK, tmp_path / "run", export=False).path
    assert not (run / CURVES).exists()  # the curves of a single epoch would be points
    cvae.resume(run, epochs=2, export=False, quiet=True)
    assert runs == [] and (run / CURVES).is_file()
    assert capsys.readouterr().err.splitlines()[-3] == f"  cvae export onnx {run}"


@pytest.mark.integration
@pytest.mark.parametrize(
    "failure", [CvaeError("no"), RuntimeError("line\nof torch")], ids=lambda error: type(error).__name__
)
def test_failed_export_keeps_the_run_and_names_the_fix(tmp_path, exporter, failure):
    exporter(failure)
    reason = " ".join(str(failure).split())
    with pytest.raises(CvaeError, match=f"run' is trained, but its export failed: {reason}; .*cvae export onnx"):
        cvae.train(QUICK, tmp_path / "run", quiet=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model.safetensors", "metrics.jsonl"}


@pytest.mark.integration
def test_message_after_interrupted_export_names_the_command(tmp_path, exporter):
    exporter(KeyboardInterrupt())
    with pytest.raises(Interrupted, match="is trained, but not exported; export it with: cvae export onnx"):
        cvae.train(QUICK, tmp_path / "run", quiet=True)


@pytest.mark.integration
def test_diverged_run_is_not_exported(tmp_path, exporter):
    runs = exporter()
    with pytest.raises(Diverged):
        cvae.train(TrainConfig(**{**vars(QUICK), "lr": 1e30}), tmp_path / "run", quiet=True)
    assert runs == []


@pytest.mark.integration
def test_only_main_process_exports(tmp_path, exporter, monkeypatch):
    runs = exporter()
    monkeypatch.setattr("cvae.engine.processes.is_main_process", lambda: False)
    assert cvae.train(QUICK, tmp_path / "run", quiet=True).path.is_dir() and runs == []


@pytest.mark.integration
def test_warning_during_training_is_one_line(tmp_path, exporter):
    exporter()

    formatted: list[str] = []

    def on_epoch(record: dict) -> None:
        formatted.append(warnings.formatwarning("a cause;\n a fix", UserWarning, "module.py", 1))

    before = warnings.formatwarning
    cvae.train(QUICK, tmp_path / "run", quiet=True, on_epoch=on_epoch)
    assert formatted == ["cvae: warning: a cause; a fix\n"] and warnings.formatwarning is before


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (None, "-n 16"),
        (tuple("0123456789"), "--digit 7"),
        (("big cat", "dog"), "--label 'big cat'"),
        (("$(rm -r x)", "dog"), "--label '$(rm -r x)'"),
        (("x" * 99, "dog"), "--label-index 0"),
    ],
)
def test_next_commands_are_quoted_for_the_shell(classes, options):
    generate, *others = _next_commands(Path("runs/my run"), classes, exported=True)
    assert generate == f"cvae generate 'runs/my run' {options}"
    assert others == ["cvae evaluate 'runs/my run'", "cvae export web 'runs/my run'"]
    assert _next_commands(Path("a"), classes, exported=False)[0] == "cvae export onnx a"
