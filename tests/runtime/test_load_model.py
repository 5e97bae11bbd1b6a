"""Loading a model: files, devices and options."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from runtime_helpers import DECODER, ENCODER, close, random_images

import cvae
from cvae.errors import CvaeError, UsageError
from cvae.runtime import session
from cvae.runtime.find import find
from cvae.spec import KEY


def test_decoder_generates_without_encoder_and_encode_suggests_export(run):
    encoder = (run / ENCODER).read_bytes()
    (run / ENCODER).unlink()
    for path in (run, run / DECODER):
        model = cvae.load(path)
        assert model.generate(1, label=3).shape == (1, 1, 8, 8)
        with pytest.raises(CvaeError, match=r"cvae export onnx .*run"):
            model.encode(random_images(1), 3)
    (run / ENCODER).write_bytes(encoder)  # the open model loads the encoder when it first needs it
    assert model.encode(random_images(1), 3)[0].shape == (1, 8)


def test_load_suggests_export_for_run_without_onnx_files(run):
    (run / DECODER).unlink()
    with pytest.raises(CvaeError, match=r"cvae export onnx .*run"):
        cvae.load(run)


def test_encode_rejects_encoder_of_another_model(run, trained):
    shutil.copy(trained["plain"] / ENCODER, run)
    with pytest.raises(UsageError, match=r"encoder\.onnx.*different weights, those of 'plain'"):
        cvae.load(run).encode(random_images(1), 3)


def test_load_rejects_encoder_in_place_of_decoder(trained):
    with pytest.raises(UsageError, match=r"encoder\.onnx.*decoder is needed"):
        cvae.load(trained["plain"] / ENCODER)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime supports CUDA")
def test_load_explains_how_to_install_cuda_provider(trained):
    with pytest.raises(UsageError, match=r"'cuda'.*pip uninstall -y cvae-onnx onnxruntime, then .*pip install"):
        cvae.load(trained["plain"], device="cuda")


@pytest.fixture(params=["falls back", "raises"])
def broken_provider(request, monkeypatch):
    """Make onnxruntime list CUDA and ROCm, but fall back to the CPU or raise an error when one of them is started."""
    real = ort.InferenceSession

    def start(data, options, *, providers, **other):
        if providers != ["CPUExecutionProvider"] and request.param == "raises":
            raise RuntimeError("libcudnn.so.9 is missing")
        return real(data, options, providers=["CPUExecutionProvider"], **other)

    available = ["CUDAExecutionProvider", "ROCMExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    monkeypatch.setattr(ort, "InferenceSession", start)
    return request.param


@pytest.mark.parametrize(
    ("device", "fix"),
    [("cuda", "NVIDIA driver.*CUDA and cuDNN"), ("ROCMExecutionProvider", "execution-providers")],
)
def test_device_that_does_not_start_is_an_error(trained, broken_provider, device, fix):
    words = fix if broken_provider == "falls back" else "libcudnn"
    with pytest.raises(CvaeError, match=f"(CUDA|ROCM)ExecutionProvider.*{words}") as caught:
        cvae.load(trained["plain"], device=device)
    assert "pip uninstall" not in str(caught.value), "reinstalling would not help"


def test_libraries_of_cuda_that_pip_installed_are_loaded_before_cuda_starts(
    trained, broken_provider, monkeypatch, capsys
):
    calls = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: (calls.append(1), print("Failed to load libcudnn")), raising=False)
    cvae.load(trained["plain"])
    assert calls == []
    with pytest.raises(CvaeError):
        cvae.load(trained["plain"], device="cuda")
    assert calls == [1] and capsys.readouterr() == ("", "")


def test_auto_device_falls_back_to_cpu(trained, models, broken_provider):
    model = cvae.load(trained["plain"], device="auto")
    assert model._decoder.provider == "CPUExecutionProvider"
    assert close(model.generate(3, seed=1), models["plain"].generate(3, seed=1))


def test_error_for_unknown_device_lists_known_devices(trained):
    with pytest.raises(UsageError, match=r"'tpu'.*cpu.*CPUExecutionProvider"):
        cvae.load(trained["plain"], device="tpu")


@pytest.mark.parametrize("options", [{"device": "auto"}, {"device": "CPUExecutionProvider"}, {"threads": 1}], ids=str)
def test_session_options_do_not_change_the_images(trained, models, options):
    other = cvae.load(trained["plain"], arena=True, spinning=True, **options)
    assert close(other.generate(9, seed=1), models["plain"].generate(9, seed=1))


def test_file_above_the_size_limit_is_not_read(trained, monkeypatch):
    monkeypatch.setattr(session, "MAX_BYTES", 2**16)
    with pytest.raises(CvaeError, match=r"decoder\.onnx.*larger"):
        cvae.load(trained["plain"])


@pytest.mark.parametrize(
    ("has_cuda", "fix"),
    [(True, "use 'cuda' ("), (False, "use 'cuda', but first replace onnxruntime with onnxruntime-gpu")],
)
def test_error_for_gpu_suggests_cuda_and_lists_only_available_devices(monkeypatch, has_cuda, fix):
    available = ["CUDAExecutionProvider"] * has_cuda + ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: available)
    with pytest.raises(UsageError) as caught:
        session._find_providers("gpu")
    names = ["auto", "cpu", *["cuda"] * has_cuda, *available]
    assert fix in str(caught.value) and f"available: {', '.join(names)}" in str(caught.value)


def test_error_for_owner_slash_name_suggests_the_hub(in_tmp):
    with pytest.raises(UsageError, match=r"model 'somebody/digits'; for a model .*, use hf://somebody/digits$"):
        find("somebody/digits")
    for name in ("runs/digits", "models/decoder.onnx", "digits"):
        with pytest.raises(UsageError) as caught:
            find(name)
        assert "hf://" not in str(caught.value), name


@pytest.mark.parametrize(("frozen", "fix"), [(True, "--collect-data cvae"), (False, "train one with: cvae train")])
def test_error_without_models_says_how_to_get_one(in_tmp, monkeypatch, frozen, fix):
    monkeypatch.setattr("cvae.model_zoo.models", dict)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    with pytest.raises(UsageError, match=fix):
        find()


def test_load_finds_run_by_name(trained, in_tmp, models):
    shutil.copytree(trained["plain"], "runs/first")
    assert np.array_equal(cvae.load("first").generate(2, seed=0), models["plain"].generate(2, seed=0))
    with pytest.raises(UsageError, match=r"'frist'.*'first'"):
        cvae.load("frist")


def change_spec(path: Path, **changes) -> None:
    """Change the spec of a file, but not its graph."""
    model = onnx.load(path)
    (entry,) = [p for p in model.metadata_props if p.key == KEY]
    entry.value = json.dumps({**json.loads(entry.value), **changes})
    onnx.save(model, path)


@pytest.mark.parametrize(
    "changes",
    [{"latent_dim": 9}, {"image_shape": [1, 8, 9]}, {"image_shape": [3, 8, 8]}, {"conditions": []}],
    ids=str,
)
def test_file_that_contradicts_its_spec_is_rejected(run, changes):
    change_spec(run / DECODER)
    assert cvae.load(run).generate(1, label=0).shape == (1, 1, 8, 8)
    change_spec(run / DECODER, **changes)
    with pytest.raises(CvaeError, match=r"decoder\.onnx.*contradicts"):
        cvae.load(run)
