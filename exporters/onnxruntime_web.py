"""The onnxruntime files for browsers. They are downloaded once from its npm package, verified, and cached.

The page uses single-threaded WebAssembly, which needs two files of the package. Threads would need a server that sends
COOP and COEP headers. Two other files also run a model with WebGPU. They are those for browsers with JSPI, which lets
WebAssembly wait for the GPU; the files for other browsers are larger by half. See
https://onnxruntime.ai/docs/tutorials/web/.
"""

import base64
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Collection
from pathlib import Path

from cvae.atomic import cache_root, write_file
from cvae.errors import CvaeError

VERSION = "1.30.0"

PACKAGE = f"onnxruntime-web@{VERSION}"

INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Digest of the published package, as printed by `npm view onnxruntime-web@1.30.0 dist.integrity`."""

FILES = {
    "ort.wasm.bundle.min.mjs": (
        "sha512-1KcF8CWAZeqtTcvLgKPtOMXIbkWeh++LDCQpDhQ5ARVxHAL1VNL5rr0OI+MxTbmNIANldE/A/q+O4gSKgSMjWQ=="
    ),
    "ort-wasm-simd-threaded.wasm": (
        "sha512-Gt7e1iIDIZ/PXEhM/OVleqWHVom0kEI/hs8cod0crXcV9jDGM39B23HuQnlOOgDOC3x4k5pxIgtdgzaL9up3MA=="
    ),
    "ort.jspi.bundle.min.mjs": (
        "sha512-4XwFfTf4l8cw2XMJlJ7q4Nv9cUrxgKMXw4xh+H1M9uewVX0aV4rmWoyk6bqalGCIpnCBFUNBpWNEqYIE4LGQWw=="
    ),
    "ort-wasm-simd-threaded.jspi.wasm": (
        "sha512-KExjpGx34DoPa8mNqkGyYFh8gwdXIzbNRFKyrJgylXQF+yzKmSbQF+hR9tpCm4Q6igHdQjcpN3CIpgnE0084yg=="
    ),
}
"""Files that the page needs from the `dist` folder of the package, with their digests."""

WASM = {"ort.js": "ort.wasm.bundle.min.mjs", "ort.wasm.gz": "ort-wasm-simd-threaded.wasm"}
WEBGPU = {"ort.webgpu.js": "ort.jspi.bundle.min.mjs", "ort.webgpu.wasm.gz": "ort-wasm-simd-threaded.jspi.wasm"}
"""Names of these files in the page's folder, by runtime. A name with `.gz` stands for the compressed file."""

CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/dist/"
"""Address of the package's individual files, for machines without npm."""

REGISTRY = "npm_config_registry"
"""Environment variable that sets the npm registry. `npm pack` also reads the other settings of npm."""

MAX_BYTES = 128 * 2**20
"""Maximum size of a download."""

TIMEOUT = 60
"""Number of seconds without a response after which a download fails."""


def load_files(*, webgpu: bool) -> dict[str, bytes]:
    """Return the contents of `ort.js`, an ES module, and of `ort.wasm.gz`, by file name.

    The WebAssembly file is compressed, because a plain static server does not compress files. The files are read from
    the cache, or else downloaded with `fetch` and cached.

    Args:
        webgpu: whether to return `ort.webgpu.js` and `ort.webgpu.wasm.gz` too.

    Raises:
        CvaeError: If the files can't be downloaded.
    """
    files = {**WASM, **(WEBGPU if webgpu else {})}
    paths = {name: cache_root(None) / PACKAGE / f"{name}.gz" for name in files.values()}
    cached = {name: _read_cached(path, FILES[name]) for name, path in paths.items()}
    packed = {name: data for name, data in cached.items() if data is not None}
    missing = [name for name in cached if name not in packed]
    for name, data in (fetch(missing) if missing else {}).items():
        packed[name] = gzip.compress(data, 9, mtime=0)
        write_file(paths[name], packed[name])
    contents = {target: packed[name] for target, name in files.items()}
    return {name: data if name.endswith(".gz") else gzip.decompress(data) for name, data in contents.items()}


def _read_cached(path: Path, integrity: str) -> bytes | None:
    """Return the bytes of a compressed file, or None if it is missing or does not have this digest."""
    try:
        data = path.read_bytes()
        return data if compute_integrity(gzip.decompress(data)) == integrity else None
    except (OSError, EOFError, ValueError, zlib.error):  # missing or damaged
        return None


def fetch(names: Collection[str]) -> dict[str, bytes]:
    """Download files from npm, else the registry in $npm_config_registry, else a CDN, and return them by name.

    Raises:
        CvaeError: If no source has the files, or a file does not have the published digest.
    """
    reasons = []
    for source, get in {"npm": _from_npm, f"${REGISTRY}": _from_registry, "the CDN": _from_cdn}.items():
        try:
            contents = get(names)
        except (OSError, ValueError, KeyError, tarfile.TarError, subprocess.SubprocessError) as error:
            reasons.append(f"{source}: {' '.join(str(error).split())[:200]}")
            continue
        if contents is None:  # npm is not installed, or no registry is set
            continue
        if wrong := [name for name, data in contents.items() if compute_integrity(data) != FILES[name]]:
            raise CvaeError(
                f"{wrong[0]!r} from {source} is not the published file of {PACKAGE}: its SHA-512 differs; nothing was "
                "stored; try again, or use a different network"
            )
        return contents
    raise CvaeError(
        f"{PACKAGE}, which the page needs, could not be downloaded ({'; '.join(reasons)}); connect to a network for "
        f"the first export, or set {REGISTRY} to an npm registry that this machine can reach"
    )


def compute_integrity(data: bytes) -> str:
    """Return the SHA-512 of `data` as npm writes it (https://www.w3.org/TR/SRI/)."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def _from_npm(names: Collection[str]) -> dict[str, bytes] | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error"]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5 * TIMEOUT)
        archives = list(Path(folder).glob("*.tgz"))
        if process.returncode != 0 or not archives:
            raise OSError(process.stderr or "npm pack wrote nothing")
        return _unpack(archives[0].read_bytes(), names)


def _from_registry(names: Collection[str]) -> dict[str, bytes] | None:
    registry = os.environ.get(REGISTRY)
    if not registry:
        return None
    package = _download(f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz")
    return _unpack(package, names)


def _from_cdn(names: Collection[str]) -> dict[str, bytes]:
    return {name: _download(CDN + name) for name in names}


def _download(address: str) -> bytes:
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"{address!r} is not an http address")
    with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
        data: bytes = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{address!r} is larger than {MAX_BYTES >> 20} MB")
    return data


def _unpack(package: bytes, names: Collection[str]) -> dict[str, bytes]:
    """Return the files in an npm package, after checking the digest of the package."""
    if compute_integrity(package) != INTEGRITY:
        raise ValueError(f"its SHA-512 differs from that of the published {PACKAGE}")
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in names}
        return {name: member.read() for name, member in members.items() if member is not None}
