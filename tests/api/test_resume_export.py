"""The export at the end of a resumed run."""

import pytest

import cvae
from cvae.config import TrainConfig
from cvae.run import DECODER, ENCODER

QUICK = TrainConfig(arch="mlp", conditional=True, epochs=1, limit=64, latent_dim=4, trackers=("none",))


@pytest.mark.integration
def test_resume_updates_outdated_exports_and_keeps_their_options(tmp_path, capsys):
    from cvae.exporters.onnx import export

    run = tmp_path / "run"
    cvae.train(QUICK, run, export=False, quiet=True)
    export(run, license="MIT", half=True)
    before = (run / DECODER).read_bytes()
    cvae.resume(run)
    assert (run / DECODER).read_bytes() == before
    text = " ".join(capsys.readouterr().err.split())
    assert "this run is complete; to continue it, set epochs to more than 1" in text
    assert "already match these weights" in text and f"cvae export onnx {run}" in text
    cvae.resume(run, epochs=2, quiet=True)
    assert (run / DECODER).read_bytes() != before
    decoder = cvae.load(run).spec
    assert (decoder.license, decoder.agreement["weights"]) == ("MIT", "float16")
    (run / ENCODER).unlink()
    cvae.resume(run, quiet=True)  # a run without one of the files is exported again
    assert cvae.info(run / ENCODER)["license"] == "MIT"
