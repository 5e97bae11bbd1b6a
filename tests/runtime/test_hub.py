"""Models on the Hugging Face Hub, with a local mirror for downloads and uploads, and the model card of a run."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_mirror import COMMIT, TOKEN, Mirror

import cvae as package
from cvae.errors import CvaeError, MissingExtraError, UsageError, install_command
from cvae.exporters import card
from cvae.exporters.onnx import export
from cvae.runtime.session import read_spec

pytest.importorskip("huggingface_hub")

UNREACHABLE = "http://127.0.0.1:9"


def set_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the address of the hub, as HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def mirror(trained, tmp_path, monkeypatch) -> Iterator[Mirror]:
    """Start a hub with somebody/digits, somebody/decoder-alone and somebody/nothing, and use an empty cache."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "decoder.onnx").write_bytes((trained["plain"] / "decoder.onnx").read_bytes())
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "README.md").write_text("empty")
    repositories = {
        "somebody/digits": trained["labels"],
        "somebody/decoder-alone": tmp_path / "alone",
        "somebody/nothing": tmp_path / "nothing",
    }
    with Mirror(repositories, uploads=tmp_path / "uploads") as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        set_endpoint(server.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_model_from_the_hub_generates_the_same_images_as_the_run(mirror, trained, revision):
    local, remote = package.load(trained["labels"]), package.load(f"hf://somebody/digits{revision}")
    images = local.generate(4, seed=1)
    np.testing.assert_array_equal(remote.generate(4, seed=1), images)
    np.testing.assert_array_equal(remote.encode(images, 7)[0], local.encode(images, 7)[0])
    assert sorted(mirror.downloads) == ["decoder.onnx", "encoder.onnx"], "other files were downloaded too"


def test_downloaded_model_is_loaded_from_the_cache_even_offline(mirror, monkeypatch):
    first = package.load("hf://somebody/digits").generate(1, 7, seed=1)
    for _ in range(2):
        np.testing.assert_array_equal(package.load("hf://somebody/digits").generate(1, 7, seed=1), first)
        assert len(mirror.downloads) == 2
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("file", ["decoder.onnx", "encoder.onnx"])
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_file_above_the_size_limit_is_not_downloaded(mirror, trained, tmp_path, monkeypatch, file, revision):
    sizes = {name: (trained["labels"] / name).stat().st_size for name in ("decoder.onnx", "encoder.onnx")}
    large = tmp_path / "large"
    large.mkdir()
    for name, size in sizes.items():
        with (large / name).open("wb") as stream:
            stream.truncate(max(sizes.values()) + 1 if name == file else size)
    mirror.repositories["somebody/large"] = large
    monkeypatch.setattr("cvae.runtime.session.MAX_BYTES", max(sizes.values()))
    with pytest.raises(
        CvaeError, match=rf"^'hf://somebody/large{revision}': its {file} is larger than [\d,]+ bytes, so .*"
    ):
        package.load(f"hf://somebody/large{revision}")
    assert mirror.downloads == []
    package.load("hf://somebody/digits")


def test_decoder_without_encoder_can_generate(mirror):
    assert package.load("hf://somebody/decoder-alone").generate(2, seed=1).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "error_type", "words"),
    [
        ("hf://nobody/digits", UsageError, ["'hf://nobody/digits'", "no such model", "127.0.0.1"]),
        ("hf://somebody/digits@v9", UsageError, ["'somebody/digits'", "'v9'"]),
        ("hf://somebody/nothing", CvaeError, ["'hf://somebody/nothing'", "decoder.onnx"]),
        ("hf://digits", UsageError, ["'hf://digits'", "hf://owner/name"]),
        ("hf://a/b/c", UsageError, ["'hf://a/b/c'", "hf://owner/name"]),
        ("hf://../..", UsageError, ["'hf://../..'"]),
        ("hf://somebody/digits@../../../x", UsageError, ["hf://owner/name@revision"]),
        ("hf://somebody/digits@main/../x", UsageError, ["hf://owner/name@revision"]),
        ("hf://somebody/digits@/x", UsageError, ["hf://owner/name@revision"]),
    ],
)
def test_missing_repository_or_file_is_reported_in_one_line(mirror, name, error_type, words):
    with pytest.raises(CvaeError) as caught:
        package.load(name)
    assert type(caught.value) is error_type and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert mirror.downloads == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"commit": "../../../../../escaped"}, "instead of the hash of a commit"),
        ({"commit": COMMIT[:-1] + "/"}, "instead of the hash of a commit"),
        ({"etag": "../../../../escaped"}, "instead of the hash of a file"),
        ({"stated_size": 1000}, "bytes instead of 1000"),
        ({"states_length": False}, "an unknown number of bytes"),
    ],
)
def test_hostile_hub_writes_nothing_outside_the_cache(mirror, tmp_path, changes, words):
    for name, value in changes.items():
        setattr(mirror, name, value)
    before = set(tmp_path.iterdir()) | {tmp_path / "cache"}
    with pytest.raises(CvaeError, match=words):
        package.load("hf://somebody/digits")
    assert set(tmp_path.iterdir()) | {tmp_path / "cache"} == before
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 1000


def test_unreachable_hub_is_reported_if_the_model_is_not_cached(mirror, monkeypatch):
    set_endpoint(UNREACHABLE, monkeypatch)
    with pytest.raises(CvaeError, match=r"'hf://somebody/digits': .*127.0.0.1:9 can't be reached.*try again"):
        package.load("hf://somebody/digits")


@pytest.mark.parametrize("error", [RuntimeError("peer closed\nthe connection"), OSError(28, "disk full"), KeyError()])
def test_interrupted_download_is_reported_in_one_line(monkeypatch, error):
    def fail_download(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail_download)
    with pytest.raises(
        CvaeError, match=r"^'hf://a/b' can't be downloaded: (peer closed|.*disk full|KeyError); try again$"
    ):
        package.load("hf://a/b")


def test_error_names_the_missing_hub_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"'hf://a/b' needs ") as caught:
        package.load("hf://a/b")
    assert str(caught.value).endswith(install_command("hub"))


@pytest.mark.parametrize(
    "command",
    [
        "generate hf://somebody/digits --digit 7",
        "interpolate hf://somebody/digits --digit 3",
        "info hf://somebody/digits",
        "evaluate hf://somebody/digits --limit 20 --samples 2 --generated 0",
        "plot grid hf://somebody/digits --out grid.png",
        "export triton hf://somebody/digits --out repository --encoder",
    ],
)
def test_every_command_accepts_hub_models(cvae, mirror, command):
    result = cvae(*command.split())
    assert result.code == 0 and "rror" not in result.err, result.err


def test_export_onnx_rejects_hub_model(cvae, mirror):
    result = cvae("export", "onnx", "hf://somebody/digits")
    assert result.code == 2 and "already exported" in result.err and result.err.count("\n") == 1, result.err
    assert mirror.downloads == []


def test_environment_variables_select_the_hub_and_the_cache(mirror, tmp_path):
    """HF_ENDPOINT and HF_HOME are set for another process, as a user would set them."""
    env = {**os.environ, "HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "cvae", "generate", "hf://somebody/digits", "--digit", "7", "--seed", "1"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "generated.png (1 image, seed 1)\n"), result.stderr
    assert result.stderr == ""  # no progress bar without a terminal
    assert sorted(mirror.downloads) == ["decoder.onnx", "encoder.onnx"]


# -- uploads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def run(trained, in_tmp) -> Path:
    """Copy the conditional run to a folder that can be written to."""
    return Path(shutil.copytree(trained["labels"], "run"))


def test_uploaded_run_generates_the_same_images(cvae, mirror, token, run):
    result = cvae("hub", "push", run, "me/digits", "--private")
    folder = mirror.repositories["me/digits"]
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    samples = [f"samples/epoch-0020-{name}.png" for name in ("interpolations", "reconstructions", "samples")]
    optional = [name for name in ("curves.png", "samples.png") if (run / name).is_file()]
    expected = ["README.md", "config.json", "decoder.onnx", "encoder.onnx", "model.safetensors", *optional, *samples]
    assert paths == sorted(expected)
    assert result.out == f"{mirror.url}/me/digits: {len(paths)} files\ncvae generate hf://me/digits\n", result.err
    assert mirror.private == {"me/digits": True}
    assert all((folder / path).read_bytes() == (run / path).read_bytes() for path in paths if path != "README.md")
    card_text = (folder / "README.md").read_text()
    assert 'cvae.load("hf://me/digits")' in card_text and "OWNER/NAME" not in card_text
    images = package.load("hf://me/digits").generate(3, 7, seed=1)
    np.testing.assert_array_equal(images, package.load(run).generate(3, 7, seed=1))


def test_upload_updates_a_repository(mirror, token, run):
    notes: list[str] = []
    first = package.hub.push(run, "me/digits", note=notes.append)
    (run / "samples.png").write_bytes((run / first["files"][-2]).read_bytes())
    second = package.hub.push(str(run), "hf://me/digits")
    assert first["model"] == second["model"] == "hf://me/digits" and {*second["files"]} == {
        *first["files"],
        "samples.png",
    }
    assert (mirror.repositories["me/digits"] / "samples.png").is_file() and notes == []


def test_upload_reports_the_path_of_the_data(mirror, token, run):
    config = json.loads((run / "config.json").read_text())
    config["training"]["data"] = "folder:/private/photos"
    (run / "config.json").write_text(json.dumps(config))
    notes: list[str] = []
    package.hub.push(run, "me/digits", note=notes.append)
    assert notes == ["config.json contains the path of your data: '/private/photos'"]


@pytest.mark.parametrize(
    ("change", "arguments", "code", "words"),
    [
        (lambda run: (run / "decoder.onnx").unlink(), "run me/x", 1, ["no decoder.onnx", "cvae export onnx run"]),
        (lambda run: (run / "README.md").unlink(), "run me/x", 1, ["no README.md", "cvae export onnx run"]),
        (
            lambda run: change_weights(run),
            "run me/x",
            2,
            ["different weights", "export it again with: cvae export onnx run"],
        ),
        (lambda run: (run / "model.safetensors").unlink(), "run me/x", 2, ["'run'", "model.safetensors"]),
        (None, "run digits", 2, ["'digits'", "owner/name"]),
        (None, "nowhere me/x", 2, ["'nowhere'"]),
    ],
)
def test_upload_of_an_incomplete_run_is_rejected(cvae, mirror, token, run, change, arguments, code, words):
    if change is not None:
        change(run)
    result = cvae("hub", "push", *arguments.split())
    assert (result.code, result.out) == (code, "") and result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    assert "me/x" not in mirror.repositories


def change_weights(run: Path) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("value", "words"), [(None, "requires a token"), ("hf_wrong", "does not let your token upload to 'me/x'")]
)
def test_error_for_upload_without_permission_says_how_to_log_in(cvae, mirror, run, tmp_path, monkeypatch, value, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv("HF_TOKEN", value)
    result = cvae("hub", "push", run, "me/x")
    assert result.code != 0 and result.err.count("\n") == 1 and words in result.err, result.err
    assert "hf auth login" in result.err and "HF_TOKEN" in result.err


def test_upload_to_an_unreachable_hub_is_reported_in_one_line(cvae, token, run, monkeypatch):
    set_endpoint(UNREACHABLE, monkeypatch)
    result = cvae("hub", "push", run, "me/x")
    assert result.code == 1 and result.err.count("\n") == 1 and "can't upload to 'me/x': " in result.err


# -- the model card ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_run_is_a_valid_model_repository(trained, kind):
    from huggingface_hub import ModelCard

    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in trained[kind].iterdir()}
    parsed_card = ModelCard((trained[kind] / "README.md").read_text())
    assert parsed_card.data.library_name == "cvae" and parsed_card.data.license is None
    assert parsed_card.data.tags == ["vae", *["conditional"] * (kind == "labels"), "onnx"]
    records = [json.loads(line) for line in (trained[kind] / "metrics.jsonl").read_text().splitlines()]
    assert f"| bound on test images | {records[-1]['test']['bound']:.2f} nats per image |" in parsed_card.text
    assert "| training data | digits; E. Alpaydin and C. Kaynak, CC BY 4.0" in parsed_card.text
    assert str(trained[kind]) not in parsed_card.text
    image_paths = re.findall(r"!\[.+\]\((\S+)\)", parsed_card.text)
    assert image_paths == [
        f"samples/epoch-0020-{name}.png" for name in ("samples", "interpolations", "reconstructions")
    ]
    assert all((trained[kind] / path).is_file() for path in image_paths)


@pytest.mark.parametrize("license", ["Apache-2.0", 'custom: "quoted" # and\\ more'])
def test_card_escapes_license_and_name(trained, license):
    from dataclasses import replace

    from huggingface_hub import ModelCard

    spec = replace(read_spec(trained["labels"] / "decoder.onnx")[0], license=license, name="a | b <script>c")
    parsed_card = ModelCard(card.make_card(trained["labels"], spec))
    assert parsed_card.data.license == license.lower() and r"# a \| b \<script\>c" + "\n" in parsed_card.text


def test_card_omits_the_bound_of_damaged_metrics_but_not_of_unreadable_ones(trained, tmp_path):
    spec = read_spec(trained["plain"] / "decoder.onnx")[0]
    (tmp_path / "metrics.jsonl").write_text("{")
    assert "bound on test images" not in card.make_card(tmp_path, spec)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CvaeError, match=r"can't read .*metrics\.jsonl': it is a folder"):
        card.make_card(tmp_path, spec)


def test_custom_card_is_not_overwritten(trained, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained["plain"] / name).read_bytes())
    assert card.can_overwrite_card(tmp_path / "README.md") and card.can_overwrite_card(trained["plain"] / "README.md")
    (tmp_path / "README.md").write_text("mine")
    assert [path.name for path in export(tmp_path)] == ["decoder.onnx", "encoder.onnx"]
    assert (tmp_path / "README.md").read_text() == "mine"
