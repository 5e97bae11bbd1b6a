"""Programs under examples/, run as their documentation describes. test_plugin.py has more tests of the plug-in."""

import ast
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers import code_blocks
from hub_mirror import Mirror
from PIL import Image

import cvae as package
from cvae import model_zoo
from cvae.evaluation.feature_extractor import load_feature_extractor
from cvae.imaging import grid, to_uint8

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


TRAIN_PLUGIN = """
import cvae, cvae_mixer
from cvae.registry import ARCHITECTURES
ARCHITECTURES.register("mixer", cvae_mixer.mixer)
options = {"arch": {"depth": 1}}
config = cvae.TrainConfig(data="digits", arch="mixer", epochs=1, limit=64, options=options, trackers=("none",))
print(*cvae.train(config, "run", export=False, quiet=True).path.glob("model.*"))
"""

SMOKE = {
    "fastapi": (["-c", "import app; print(app.find_rows({'label': '7'}, None, 2))"], "[7 7]"),
    "plugin": (["-c", TRAIN_PLUGIN], "model.safetensors"),
    "ray": ([str(EXAMPLES / "ray" / "bulk.py"), "--n", "2", "--out", "images"], ""),
}
"""Folder of a Python example -> arguments of a short run, and part of its output.

The examples in other languages have tests of their own; test_triton.py tests the client for Triton with a server.
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", SMOKE)
def test_example_program_runs(tmp_path, folder):
    if folder != "plugin":
        pytest.importorskip(folder, reason=f"{folder} is not installed")
    arguments, output = SMOKE[folder]
    source = tmp_path / "source"  # a copy without the entry points that an installation leaves in the folder
    shutil.copytree(EXAMPLES / folder, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{source}"}
    result = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert output in result.stdout
    if folder == "ray":
        assert list((tmp_path / "images").glob("*.parquet"))


# -- FastAPI -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES / "fastapi")
        yield TestClient(import_module("app").app)
    del sys.modules["app"]


def test_service_reports_its_health(client):
    health = client.get("/health").json()
    assert health == {
        "status": "ok",
        "model": package.load().spec.name,
        "image_shape": [1, 28, 28],
        "classes": list("0123456789"),
        "conditions": [{"name": "label", "kind": "category", "values": list("0123456789")}],
    }


def test_service_returns_the_same_images_as_cvae(client):
    response = client.get("/images", params={"label": ["7", "3"], "n": 5, "seed": 1, "temperature": 0.7}).json()
    assert (response["labels"], response["seed"]) == (["7", "3", "7", "3", "7"], 1)
    expected = package.load().generate(label=[7, 3, 7, 3, 7], seed=1, temperature=0.7)
    np.testing.assert_allclose(np.array(response["images"], np.float32), expected, atol=1e-6)
    assert client.get("/images", params={"n": 12}).json()["labels"] == [*"0123456789", "0", "1"]
    by_index = client.get("/images", params={"label_index": [7, 3], "n": 5, "seed": 1, "temperature": 0.7}).json()
    body = {"conditions": {"label": [7, 3]}, "n": 5, "seed": 1, "temperature": 0.7}
    assert by_index == response == client.post("/images", json=body).json()
    assert response["conditions"] == [{"label": label} for label in response["labels"]]


def test_service_returns_the_same_png_for_the_same_seed(client):
    response = client.get("/images.png?label=7&n=4&seed=1")
    assert response.headers["content-type"] == "image/png" and response.headers["x-seed"] == "1"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (285, 285)  # enlarged from 57x57
    response = client.get("/images.png?label=7&n=4&seed=1&enlarge=false")
    with Image.open(io.BytesIO(response.content)) as image:
        np.testing.assert_array_equal(image, grid(package.load().generate(4, 7, seed=1)))
    first = client.get("/images.png?label=7")
    second = client.get(f"/images.png?label=7&seed={first.headers['x-seed']}")
    assert second.content == first.content


@pytest.mark.parametrize("path", ["/images", "/images.png"])
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("label=12", ["'12'", "0, 1, 2"]),
        ("label=-1", ["'-1'"]),
        ("label=7&label=x", ["'x'"]),
        ("label_index=3&label_index=10", ["index 10"]),
        ("label_index=-1", ["index -1"]),
        ("label=7&label_index=7", ["give one"]),
        ("lable=7", ["'lable'", "'label'"]),
        ("n=0", ["greater than or equal to 1"]),
        ("n=100000", ["less than or equal to 256"]),
        ("n=two", ["integer"]),
        ("seed=-1", ["greater than or equal to 0"]),
        ("temperature=inf", ["less than or equal to 4"]),
        ("temperature=nan", ["less than or equal to 4"]),
    ],
)
def test_service_rejects_invalid_requests_in_one_line(client, path, query, words):
    response = client.get(f"{path}?{query}")
    detail = response.json()["detail"]
    line = detail if isinstance(detail, str) else detail[0]["msg"]
    assert response.status_code == 422 and "\n" not in line
    assert all(word in line for word in words), line


def test_service_describes_its_endpoints(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/health", "/images", "/images.png"}
    parameters = {query["name"]: query for query in paths["/images"]["get"]["parameters"]}
    assert (parameters["n"]["schema"]["minimum"], parameters["n"]["schema"]["maximum"]) == (1, 256)
    assert "category of 10" in parameters["label"]["description"]


# -- C++ ---------------------------------------------------------------------------------------------------------------


def run(*command: object, code: int = 0) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result.stderr


@pytest.mark.parametrize(("kind", "label"), [("labels", "7"), ("plain", None)])
def test_cpp_decodes_the_same_images_as_python(program, trained, tmp_path, kind, label):
    model = package.load(trained[kind])
    noise = model.noise(1, seed=5)
    (tmp_path / "noise.f32").write_bytes(noise.tobytes())
    flags = ["--label", label] if label else []
    run(program, trained[kind] / "decoder.onnx", tmp_path / "a.pgm", *flags, "--noise", tmp_path / "noise.f32")
    with Image.open(tmp_path / "a.pgm") as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.std() > 10 and np.abs(pixels - to_uint8(model.decode(noise, label))[0, 0]).max() <= 1


def test_cpp_writes_nothing_to_the_home_folder(program, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    run(program, model_zoo.model(model_zoo.DEFAULT) / "decoder.onnx", tmp_path / "a.pgm", "--label", "7")
    assert list(home.iterdir()) == []


def test_cpp_writes_the_same_image_for_the_same_seed(program, trained, tmp_path):
    files = {name: tmp_path / f"{name}.pgm" for name in ("first", "second", "other")}
    for name, seed in zip(files, (1, 1, 2), strict=True):
        run(program, trained["labels"] / "decoder.onnx", files[name], "--seed", seed, "--label", 3)
    first, second, other = (path.read_bytes() for path in files.values())
    assert first == second != other


@pytest.mark.parametrize("spec_format", [1, 2])
def test_cpp_accepts_every_class_name_and_writes_colour_images(program, trained, tmp_path, spec_format):
    """Class names contain quotes, brackets and non-ASCII characters, and another string in the spec looks like JSON."""
    import onnx
    from onnx import TensorProto, helper

    from cvae.runtime.session import read_spec

    names = ['a "classes": ["x"]', "[,]", "\\", "é", "雪", "🦆", "\n", ""]
    spec = json.loads(read_spec(trained["labels"] / "decoder.onnx")[0].to_json())
    spec |= {"data": '"classes": ["no"], "latent_dim": 9', "latent_dim": 2, "image_shape": [3, 1, 2]}
    spec |= {"format": spec_format, "conditions": [{"name": "label", "kind": "category", "values": names}]}
    if spec_format == 1:
        spec |= {"classes": names, "conditions": None}
    nodes = [  # every channel of both pixels is label / 10
        helper.make_node("Cast", ["label"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "tenth"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "one"], ["reshaped"]),
        helper.make_node("Expand", ["reshaped", "shape"], ["grey"]),
        helper.make_node("ReduceMean", ["noise"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "one"], ["nothing4"]),
        helper.make_node("Add", ["grey", "nothing4"], ["image"]),
    ]
    constants = {
        "tenth": np.float32([0.1]),
        "zero": np.float32([0]),
        "one": np.array([1, 1, 1, 1]),
        "shape": np.array([1, 3, 1, 2]),
    }
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 1, 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"cvae": json.dumps(spec)})
    onnx.save(model, tmp_path / "decoder.onnx")
    for index, name in enumerate(names):
        run(program, tmp_path / "decoder.onnx", tmp_path / "a.ppm", "--label", name)
        value = round(index / 10 * 255)
        header, _, pixels = (tmp_path / "a.ppm").read_bytes().partition(b"\n")
        assert header == b"P6 2 1 255" and np.abs(np.frombuffer(pixels, np.uint8).astype(int) - value).max() <= 1, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{labels}/decoder.onnx", "a.pgm", "--label", "12"], ["'12'", "0, 1, 2"]),
        (["{labels}/decoder.onnx", "a.pgm", "--label", "-1"], ["'-1'", "0, 1, 2"]),
        (["{labels}/decoder.onnx", "a.pgm", "--seed", "x"], ["'x'", "integer"]),
        (["{labels}/decoder.onnx", "a.pgm", "--noise", "{labels}/config.json"], ["config.json", "8 floats"]),
        (["{labels}/decoder.onnx", "{labels}/config.json/a.pgm"], ["config.json/a.pgm"]),
        (["nowhere.onnx", "a.pgm"], ["nowhere.onnx"]),
        (["{plain}/decoder.onnx", "a.pgm", "--label", "7"], ["'7'", "no labels"]),
    ],
)
def test_cpp_reports_errors_in_one_line(program, trained, arguments, words):
    line = run(program, *[word.format(**trained) for word in arguments], code=1)
    assert line.startswith("generate: error: ") and line.count("\n") == 1 and all(word in line for word in words), line


@pytest.mark.parametrize("arguments", [["--lable", "7"], ["--label"], ["-l", "7", "--seed", "1"]], ids=" ".join)
def test_cpp_prints_usage_for_invalid_arguments(program, trained, tmp_path, arguments):
    line = run(program, trained["labels"] / "decoder.onnx", tmp_path / "a.pgm", *arguments, code=2)
    assert line.startswith("usage: generate ") and list(tmp_path.iterdir()) == []


# -- the notebook ------------------------------------------------------------------------------------------------------


def test_every_notebook_cell_runs_and_ends_with_a_value(in_tmp):
    """The cells run one after another, as in Jupyter. Most of them end with an image."""
    notebook = json.loads((EXAMPLES / "notebook" / "digits.ipynb").read_text("utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    namespace: dict[str, object] = {}
    outputs = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "the notebook must have no outputs"
            *body, last = ast.parse("".join(cell["source"])).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
            outputs.append(eval(compile(ast.Expression(last.value), "cell", "eval"), namespace))
    model, *images = outputs
    assert repr(model).startswith("<cvae.Model mnist-resnet-conditional: ") and len(images) == 6
    assert all(isinstance(image, Image.Image) and np.asarray(image).std() > 20 for image in images)
    assert [path.name for path in in_tmp.iterdir()] == []


# -- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bulk_job_generates_each_image_from_its_index(tmp_path):
    import pyarrow.parquet

    command = [sys.executable, EXAMPLES / "ray" / "bulk.py", "--n", "600", "--seed", "3", "--out", tmp_path / "images"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = sorted(pyarrow.parquet.read_table(tmp_path / "images").to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(600))
    model = package.load()
    for i in (0, 17, 256, 599):  # from several batches
        assert rows[i]["label"] == str(i % 10)
        noise = np.random.default_rng([3, i]).standard_normal((1, model.spec.latent_dim), np.float32)
        with Image.open(io.BytesIO(rows[i]["png"])) as image:
            expected = to_uint8(model.decode(noise, i % 10))[0, 0]
            assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 2 and "already exists" in second.stderr.splitlines()[-1]


SERVE = """
import sys, ray, httpx2
from ray import serve
sys.path.insert(0, {folder!r})
import serving
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={{"host": "127.0.0.1", "port": {port}}})
serve.run(serving.app({{"model": {model!r}}}))
for query in ("label=7&seed=3", "label=12", "seed=-1"):
    response = httpx2.get("http://127.0.0.1:{port}/?" + query)
    print(response.status_code, response.headers.get("X-Seed"), response.content.hex())
"""


@pytest.mark.slow
def test_ray_serve_generates_the_requested_digit(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = str(model_zoo.model(model_zoo.DEFAULT) / "decoder.onnx")
    program = SERVE.format(folder=str(EXAMPLES / "ray"), port=port, model=model)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLES / 'ray'}"}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    valid, label, seed = (line.split(" ") for line in result.stdout.splitlines())
    assert valid[:2] == ["200", "3"]
    with Image.open(io.BytesIO(bytes.fromhex(valid[2]))) as image:
        expected = to_uint8(package.load().generate(1, 7, seed=3))[0, 0]
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1
    assert [label[0], seed[0]] == ["422", "422"]
    assert "'12'" in bytes.fromhex(label[2]).decode() and "'-1'" in bytes.fromhex(seed[2]).decode()


# -- docs/deploy.md and docs/embedding.md ------------------------------------------------------------------------------

SCRIPTS = {
    section.partition("\n")[0]: "".join(scripts)
    for page in ("deploy.md", "embedding.md")
    for section in (ROOT / "docs" / page).read_text("utf-8").split("\n## ")
    if (scripts := code_blocks(section, "sh"))
}
"""Name of a section -> its `sh` blocks as one script. (test_readme.py runs the `bash` blocks line by line; `console`
blocks are not run.)"""

REQUIREMENTS = {"uvicorn": "uvicorn", "hf://": "huggingface_hub"}
"""Text in a script -> package that the script needs if it contains the text."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Return the address of a hub with the model that the guides use."""
    with Mirror({"somebody/digits": model_zoo.model(model_zoo.DEFAULT)}) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server.url
        server.shutdown()


@pytest.mark.integration
@pytest.mark.parametrize(
    "section_name", [pytest.param(name, marks=[pytest.mark.slow] * ("Ray Data" in name)) for name in SCRIPTS]
)
def test_shell_commands_of_guides_work(section_name, tmp_path, request):
    script = re.sub(r"^pip install .*\n", "", SCRIPTS[section_name], flags=re.MULTILINE)
    for word, requirement in REQUIREMENTS.items():
        if word in script:
            pytest.importorskip(requirement, reason=f"needs {requirement}")
    for tool in ("g++", "curl"):
        if f"{tool} " in script and not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    if "$ORT" in script:
        env["ORT"] = str(request.getfixturevalue("sdk"))
    if "hf://" in script:
        env |= {"HF_ENDPOINT": request.getfixturevalue("hub"), "HF_HOME": str(tmp_path / "hf")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        script = script.replace("8000", str(probe.getsockname()[1]))
    result = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if image_file := re.search(r"seven\.p\w+", script):
        with Image.open(tmp_path / image_file[0]) as image:
            digit = np.asarray(image.convert("L").resize((28, 28)), np.float32) / 255
        assert load_feature_extractor("mnist").predict(digit[None, None]) == [7]
    else:
        assert [entry for entry in tmp_path.iterdir() if entry.is_dir() and any(entry.iterdir())]
