"""hf://owner/name, against a small mirror of the hub on this machine; and the card that a run brings to a hub."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import cvae as package
from cvae.errors import CvaeError, MissingExtraError, UsageError
from cvae.exporters import card
from cvae.exporters.onnx import export
from cvae.runtime.session import read_spec

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"

NOBODY = "http://127.0.0.1:9"
"""An address where nobody listens."""


class Mirror(ThreadingHTTPServer):
    """What huggingface_hub asks a hub for, from folders: {"owner/name": folder}. `asked` holds the files it took."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories = repositories
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """https://huggingface.co/docs/hub/api: a repository's commit, the files in it, and each file."""

    server: Mirror

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, verb, revision, *path = [*(parts[2:] if api else parts), "", ""]
        folder = self.server.repositories.get(f"{owner}/{name}")
        file = folder and folder / "/".join(filter(None, path))
        if folder is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if api and not verb:  # the newest revision
            verb, revision = "revision", "main"
        if revision not in ("main", COMMIT):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if api and verb == "revision":
            sizes = [{"rfilename": each.name, "size": each.stat().st_size} for each in folder.iterdir()]
            siblings = sizes if "blobs=" in self.path else []
            return self.send(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())
        if api and verb == "tree":
            files = [
                {"type": "file", "path": each.name, "size": each.stat().st_size, "oid": digest(each)[:40]}
                for each in sorted(folder.iterdir())
                if each.is_file()
            ]
            return self.send(200, json.dumps(files).encode())
        if verb == "resolve" and file is not None and file.is_file():
            if body:
                self.server.asked.append(file.name)
            return self.send(200, file.read_bytes(), {"ETag": f'"{digest(file)[:40]}"', "X-Repo-Commit": COMMIT}, body)
        return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def send(self, code: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def mirror(trained, tmp_path, monkeypatch) -> Iterator[Mirror]:
    """A hub with somebody/digits, somebody/decoder-alone and somebody/nothing, and an empty cache."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "decoder.onnx").write_bytes((trained["plain"] / "decoder.onnx").read_bytes())
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "README.md").write_text("empty")
    repositories = {
        "somebody/digits": trained["labels"],
        "somebody/decoder-alone": tmp_path / "alone",
        "somebody/nothing": tmp_path / "nothing",
    }
    with Mirror(repositories) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        reach(server.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_model_from_the_hub_generates_the_images_of_the_run(mirror, trained, revision):
    ours, theirs = package.load(trained["labels"]), package.load(f"hf://somebody/digits{revision}")
    images = ours.generate(4, seed=1)
    np.testing.assert_array_equal(theirs.generate(4, seed=1), images)
    np.testing.assert_array_equal(theirs.encode(images, 7)[0], ours.encode(images, 7)[0])
    assert sorted(mirror.asked) == ["decoder.onnx", "encoder.onnx"], "weights and other files are left where they are"


def test_downloaded_model_is_reused_and_works_offline(mirror, monkeypatch):
    first = package.load("hf://somebody/digits").generate(1, 7, seed=1)
    for _ in range(2):
        np.testing.assert_array_equal(package.load("hf://somebody/digits").generate(1, 7, seed=1), first)
        assert len(mirror.asked) == 2
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("file", ["decoder.onnx", "encoder.onnx"])
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_only_required_files_are_downloaded(mirror, trained, tmp_path, monkeypatch, file, revision):
    sizes = {name: (trained["labels"] / name).stat().st_size for name in ("decoder.onnx", "encoder.onnx")}
    large = tmp_path / "large"
    large.mkdir()
    for name, size in sizes.items():
        with (large / name).open("wb") as written:
            written.truncate(max(sizes.values()) + 1 if name == file else size)
    mirror.repositories["somebody/large"] = large
    monkeypatch.setattr("cvae.runtime.session.MAX_BYTES", max(sizes.values()))
    with pytest.raises(
        CvaeError, match=rf"^'hf://somebody/large{revision}': its {file} is larger than [\d,]+ bytes, so .*"
    ):
        package.load(f"hf://somebody/large{revision}")
    assert mirror.asked == []
    package.load("hf://somebody/digits")


def test_decoder_without_encoder_can_generate(mirror):
    assert package.load("hf://somebody/decoder-alone").generate(2, seed=1).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("hf://nobody/digits", UsageError, ["'hf://nobody/digits'", "no such model", "127.0.0.1"]),
        ("hf://somebody/digits@v9", UsageError, ["'somebody/digits'", "'v9'"]),
        ("hf://somebody/nothing", CvaeError, ["'hf://somebody/nothing'", "decoder.onnx"]),
        ("hf://digits", UsageError, ["'hf://digits'", "hf://owner/name"]),
        ("hf://a/b/c", UsageError, ["'hf://a/b/c'", "hf://owner/name"]),
        ("hf://../..", UsageError, ["'hf://../..'"]),
    ],
)
def test_missing_repository_or_file_is_one_line(mirror, name, kind, words):
    with pytest.raises(CvaeError) as caught:
        package.load(name)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert mirror.asked == []


def test_offline_without_cache_is_reported(mirror, monkeypatch):
    reach(NOBODY, monkeypatch)
    with pytest.raises(CvaeError, match=r"'hf://somebody/digits': .*127.0.0.1:9 can't be reached.*try again"):
        package.load("hf://somebody/digits")


@pytest.mark.parametrize("error", [RuntimeError("peer closed\nthe connection"), OSError(28, "disk full"), KeyError()])
def test_interrupted_download_is_one_line(monkeypatch, error):
    def broken(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(
        CvaeError, match=r"^'hf://a/b' can't be downloaded: (peer closed|.*disk full|KeyError); try again$"
    ):
        package.load("hf://a/b")


def test_missing_hub_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"'hf://a/b' needs .*pip install 'cvae-onnx\[hub\]'"):
        package.load("hf://a/b")


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
    done = cvae(*command.split())
    assert done.code == 0 and "rror" not in done.err, done.err


def test_export_onnx_rejects_hub_model(cvae, mirror):
    done = cvae("export", "onnx", "hf://somebody/digits")
    assert done.code == 2 and "exported already" in done.err and done.err.count("\n") == 1, done.err
    assert mirror.asked == []


def test_environment_variable_selects_the_mirror(mirror, tmp_path):
    """As a user would: HF_ENDPOINT, HF_HOME, and a process of its own."""
    env = {**os.environ, "HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "cvae", "generate", "hf://somebody/digits", "--digit", "7", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "generated.png (1 image, seed 1)\n"), done.stderr
    assert done.stderr == ""  # a bar is for a terminal
    assert sorted(mirror.asked) == ["decoder.onnx", "encoder.onnx"]


# -- the card ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_run_is_a_valid_model_repository(trained, kind):
    from huggingface_hub import ModelCard

    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in trained[kind].iterdir()}
    told = ModelCard((trained[kind] / "README.md").read_text())
    assert told.data.library_name == "cvae" and told.data.license is None
    assert told.data.tags == ["vae", *["conditional"] * (kind == "labels"), "onnx"]
    records = [json.loads(line) for line in (trained[kind] / "metrics.jsonl").read_text().splitlines()]
    assert f"| bound on test images | {records[-1]['test']['bound']:.2f} nats per image |" in told.text
    assert "| training data | digits; E. Alpaydin and C. Kaynak, CC BY 4.0" in told.text
    assert str(trained[kind]) not in told.text
    shown = re.findall(r"!\[.+\]\((\S+)\)", told.text)
    assert shown == [f"samples/epoch-0020-{name}.png" for name in ("samples", "interpolations", "reconstructions")]
    assert all((trained[kind] / picture).is_file() for picture in shown)


@pytest.mark.parametrize("license", ["Apache-2.0", 'odd: "words" # and\\ more'])
def test_licence_in_the_card_is_unchanged(trained, license):
    from dataclasses import replace

    from huggingface_hub import ModelCard

    spec = replace(read_spec(trained["labels"] / "decoder.onnx")[0], license=license, name="a | b <script>c")
    told = ModelCard(card.make_card(trained["labels"], spec))
    assert told.data.license == license.lower() and "# a \\| b &lt;script>c\n" in told.text


def test_custom_card_is_not_overwritten(trained, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained["plain"] / name).read_bytes())
    assert card.may_write_card(tmp_path / "README.md") and card.may_write_card(trained["plain"] / "README.md")
    (tmp_path / "README.md").write_text("mine")
    assert [path.name for path in export(tmp_path)] == ["decoder.onnx", "encoder.onnx"]
    assert (tmp_path / "README.md").read_text() == "mine"
