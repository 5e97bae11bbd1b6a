"""Download of onnxruntime-web: from npm, a registry or a CDN, checked against its hash."""

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cvae.errors import CvaeError
from cvae.exporters import onnxruntime_web


@pytest.fixture
def tarball(tmp_path, monkeypatch) -> Path:
    """Create a small package that replaces the real one. At first, no source provides it."""
    contents = {name: f"{name} as published".encode() for name in onnxruntime_web.FILES}
    path = tmp_path / "onnxruntime-web" / "-" / f"onnxruntime-web-{onnxruntime_web.VERSION}.tgz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**contents, "large.map": bytes(1000)}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    digests = {name: onnxruntime_web.compute_integrity(data) for name, data in contents.items()}
    monkeypatch.setattr(onnxruntime_web, "FILES", digests)
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", onnxruntime_web.compute_integrity(path.read_bytes()))
    monkeypatch.setattr(onnxruntime_web, "CDN", "http://127.0.0.1:9/")  # nothing listens there
    monkeypatch.delenv(onnxruntime_web.REGISTRY, raising=False)
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return path


def fake_npm(package: Path, script: str) -> None:
    path = package.parents[2] / "bin" / "npm"
    path.parent.mkdir()
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{script}\n")
    path.chmod(0o755)


def unpack_cdn(package: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(package) as archive:
        archive.extractall(package.parent, filter="data")
    monkeypatch.setattr(onnxruntime_web, "CDN", serve(package.parent / "package" / "dist") + "/")


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
@pytest.mark.parametrize("source", ["npm", "registry", "cdn", "failing npm, then cdn"])
def test_runtime_is_downloaded_once(tarball, serve, monkeypatch, source):
    if "npm" in source:
        fake_npm(tarball, "exit 1" if "failing" in source else f'/bin/cp "{tarball}" . && echo "$@" > "{tarball}.log"')
    if source == "registry":
        monkeypatch.setenv(onnxruntime_web.REGISTRY, serve(tarball.parents[2]) + "/")
    if "cdn" in source:
        unpack_cdn(tarball, serve, monkeypatch)
    files = onnxruntime_web.load_files(webgpu=False)
    assert files.keys() == onnxruntime_web.WASM.keys() and files["ort.js"] == b"ort.wasm.bundle.min.mjs as published"
    assert gzip.decompress(files["ort.wasm.gz"]) == b"ort-wasm-simd-threaded.wasm as published"
    more = onnxruntime_web.load_files(webgpu=True)
    assert more.items() > files.items() and more["ort.webgpu.js"] == b"ort.jspi.bundle.min.mjs as published"
    assert gzip.decompress(more["ort.webgpu.wasm.gz"]) == b"ort-wasm-simd-threaded.jspi.wasm as published"
    if source == "npm":
        assert f"pack onnxruntime-web@{onnxruntime_web.VERSION}" in Path(f"{tarball}.log").read_text()
    monkeypatch.setattr(onnxruntime_web, "fetch", lambda names: pytest.fail("onnxruntime-web was fetched again"))
    assert onnxruntime_web.load_files(webgpu=True) == more


def test_damaged_cache_file_is_downloaded_again(tarball, serve, monkeypatch):
    unpack_cdn(tarball, serve, monkeypatch)
    files = onnxruntime_web.load_files(webgpu=False)
    (cached,) = (tarball.parents[2] / "cache").rglob("*.wasm.gz")
    data = cached.read_bytes()
    flipped = data[:10] + bytes([data[10] ^ 0xFF]) + data[11:]
    for corrupted in (b"", data[:-9], flipped, gzip.compress(b"something else")):
        cached.write_bytes(corrupted)
        assert onnxruntime_web.load_files(webgpu=False) == files


@pytest.mark.parametrize("source", ["registry", "cdn"])
def test_modified_download_is_rejected(tarball, serve, monkeypatch, source):
    if source == "registry":
        monkeypatch.setenv(onnxruntime_web.REGISTRY, serve(tarball.parents[2]))
        tarball.write_bytes(tarball.read_bytes() + b"\0")
    else:
        unpack_cdn(tarball, serve, monkeypatch)
        for path in tarball.parent.rglob("*.wasm"):
            path.write_bytes(b"something else")
    with pytest.raises(CvaeError, match="SHA-512") as caught:
        onnxruntime_web.load_files(webgpu=False)
    assert "\n" not in str(caught.value) and not (tarball.parents[2] / "cache").exists()


def test_error_without_network_states_the_fix_in_one_line(tarball, monkeypatch):
    monkeypatch.setenv(onnxruntime_web.REGISTRY, "http://127.0.0.1:9")
    with pytest.raises(CvaeError) as caught:
        onnxruntime_web.load_files(webgpu=False)
    message = str(caught.value)
    assert "\n" not in message and "connect to a network" in message and "set npm_config_registry" in message
    assert onnxruntime_web.PACKAGE in message and "refused" in message
