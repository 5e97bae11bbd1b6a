"""Fixtures that several test files share."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from affine_model import faces as faces
from helpers import CHROMIUM, CommandResult
from PIL import Image

from cvae.__main__ import main
from cvae.atomic import write_file
from cvae.config import DataConfig, TrainConfig
from cvae.imaging.pool import DecoderPool

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores

for config in (DataConfig, TrainConfig):
    # Default seed of the tests. No test may depend on its value.
    config.__init__.__kwdefaults__["seed"] = int(os.environ.get("CVAE_TEST_SEED", "0"))
    config.__init__.__kwdefaults__["data"] = "digits"  # much smaller than the default data set

INTEGRATION_FIXTURES = {
    "trained", "conditional", "quick_run", "latent_2d", "study",  # train or export a model
    "download_wheel", "chromium", "wheel", "texts", "in_javascript",  # start another process
}  # fmt: skip
"""Fixtures that train a model or start another process: tests that use them are integration tests."""

is_unit_test = False
"""Whether a unit test is running. A unit test must neither train a model nor start another process."""


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


def pytest_collection_finish() -> None:
    if "cvae.engine.trainer" in sys.modules:
        from cvae.engine.trainer import Trainer

        run = Trainer.run

        @functools.wraps(run)
        def checked_run(self: Trainer, **options: Any) -> Path:
            require_integration("trains a model")
            return run(self, **options)

        Trainer.run = checked_run


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    global is_unit_test
    is_unit_test = not any(item.get_closest_marker(name) for name in ("integration", "slow"))


def pytest_runtest_logfinish() -> None:
    global is_unit_test
    is_unit_test = False


can_start_processes = DecoderPool.can_start_processes
# Unit tests decode images in their own process, in which they can replace functions.
DecoderPool.can_start_processes = staticmethod(lambda: not is_unit_test and can_start_processes())


def require_integration(action: str) -> None:
    """Fail a unit test that does what only integration tests may do."""
    if is_unit_test:
        raise AssertionError(f"this test {action}: mark it with @pytest.mark.integration")


def check_event(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.system") and not is_importing():
        require_integration("starts another process")


def is_importing() -> bool:
    """Return whether an import is in progress. Importing torch may start `ldconfig` to find a library."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


sys.addaudithook(check_event)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train and export two small models on the data set `digits`: "labels" is conditional, "plain" is not."""
    from cvae.engine import train
    from cvae.exporters.onnx import export

    folder = tmp_path_factory.mktemp("trained")
    runs = {}
    for name, conditional in {"labels": True, "plain": False}.items():
        prior = "flow" if conditional else "normal"
        config = TrainConfig(
            arch="mlp",
            conditional=conditional,
            epochs=20,
            batch_size=128,
            warmup=0,
            latent_dim=8,
            prior=prior,
            optimizer="adam",
            options={"prior": {"hidden": 64} if conditional else {}, "objective": {"antithetic": False}},
            trackers=("none",),
        )
        runs[name] = train(config, folder / name, quiet=True)
        export(runs[name])
    return runs


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with one condition of each kind."""
    from untrained_model import AGE, LABEL, TRAITS, export_model

    return export_model(tmp_path_factory.mktemp("untrained") / "conditional", (LABEL, AGE, TRAITS))


@pytest.fixture(scope="session")
def download_wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that downloads the wheel of a requirement and opens it, without installing it."""
    folder = request.config.cache.mkdir("wheels")

    def download(requirement: str) -> zipfile.ZipFile:
        wheel = folder / f"{requirement}.whl"
        if not wheel.exists():
            temporary = tmp_path_factory.mktemp("download")
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            result = subprocess.run([*command, "--dest", temporary, requirement], capture_output=True, text=True)
            if result.returncode != 0:
                pytest.skip(f"can't download {requirement}: {result.stderr.strip().splitlines()[-1]}")
            write_file(wheel, next(temporary.glob("*.whl")).read_bytes())  # another test process may write it too
        return zipfile.ZipFile(wheel)

    return download


@pytest.fixture(scope="session")
def protobuf(download_wheel) -> types.ModuleType:
    """Return the module for `model_config.proto`, which is part of Triton's client package."""
    pytest.importorskip("google.protobuf")
    module = types.ModuleType("model_config_pb2")
    source = download_wheel("tritonclient==2.73.0").read("tritonclient/grpc/model_config_pb2.py")
    exec(compile(source, "model_config_pb2.py", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def sdk(download_wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder laid out like a release archive of onnxruntime for C and C++, with `include` and `lib`.

    The library comes from the Python package, which has no headers. The headers come from another package and describe
    version 17 of the API, which every later library supports.
    """
    import onnxruntime

    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries or not shutil.which("g++"):
        pytest.skip("needs g++ and the libonnxruntime.so of the package for Linux")
    folder = tmp_path_factory.mktemp("onnxruntime")
    for name in ("include", "lib"):
        (folder / name).mkdir()
    with download_wheel("amd-quark==0.13") as headers:
        for name in headers.namelist():
            if "/onnxruntime-1.17.0/" in name and name.endswith(".h"):
                (folder / "include" / Path(name).name).write_bytes(headers.read(name))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(libraries[0])
    return folder


@pytest.fixture(scope="session")
def program(sdk, tmp_path_factory) -> Path:
    """Compile examples/cpp as docs/deploy.md describes, but without optimization, to save time."""
    executable = tmp_path_factory.mktemp("cpp") / "generate"
    folders = [f"-I{sdk}/include", f"-L{sdk}/lib", "-lonnxruntime", f"-Wl,-rpath,{sdk}/lib"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = ["g++", "-std=c++17", *warnings, ROOT / "examples" / "cpp" / "generate.cpp", *folders, "-o", executable]
    subprocess.run(command, check=True)
    return executable


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that the Node example needs, and install its packages as documented."""
    from cvae.model_zoo import DEFAULT, models

    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs Node and npm")
    folder = tmp_path_factory.mktemp("checkout")
    for source in ("examples/node", "exporters/page"):
        shutil.copytree(ROOT / source, folder / source, symlinks=True, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "model_zoo").mkdir()
    shutil.copytree(models()[DEFAULT], folder / "model_zoo" / DEFAULT)
    result = subprocess.run("npm install", shell=True, cwd=folder / "examples/node", capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"npm install does not work here: {result.stderr.splitlines()[0]}")
    return folder


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, which contains no runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cvae(in_tmp, capsys, monkeypatch) -> Callable[..., CommandResult]:
    """Return a function that runs a command in an empty folder.

    Images are enlarged without smoothing, so that each pixel can be checked.
    """
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)

    def run(*args: object) -> CommandResult:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        assert isinstance(caught.value.code, int)
        return CommandResult(caught.value.code, *capsys.readouterr())

    return run


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a folder over HTTP and returns its address, without a trailing slash."""
    servers = {}

    def start(folder: Path) -> str:
        if folder in servers:
            return f"http://127.0.0.1:{servers[folder].server_port}"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers[folder] = server
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
