"""Node example, run as its README describes, and the JavaScript that it shares with the exported web page."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cvae
from cvae import imaging
from cvae.evaluation.feature_extractor import load_feature_extractor
from cvae.model_zoo import DEFAULT, models

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "exporters" / "page" / "cvae.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def node(program: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a program that imports the shared module."""
    command = [str(NODE), "--input-type=module", "-e", program.replace("./cvae.js", MODULE.as_uri()), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_node
def test_noise_is_standard_normal_and_reproducible():
    """The moments of 200,000 numbers are those of the standard normal distribution, within five standard errors.

    The first numbers do not depend on how many are drawn.
    """
    result = node(
        """import { normal } from "./cvae.js";
        const many = normal(1, 200000);
        const moment = (k) => many.reduce((sum, x) => sum + x ** k, 0) / many.length;
        const lagged = many.slice(1).reduce((sum, x, i) => sum + x * many[i], 0) / many.length;
        console.log(JSON.stringify([moment(1), moment(2), moment(3), moment(4), lagged,
            [...normal(1, 3)], [...many.slice(0, 3)], [...normal(2, 3)], normal(2 ** 32 - 1, 1).length]));"""
    )
    assert result.stderr == ""
    first, second, third, fourth, lagged, few, start, other, one = json.loads(result.stdout)
    for actual, expected, variance in (
        (first, 0, 1), (second, 1, 2), (third, 0, 15), (fourth, 3, 96), (lagged, 0, 1)
    ):  # fmt: skip
        assert abs(actual - expected) < 5 * (variance / 200_000) ** 0.5
    assert few == start != other and one == 1


@needs_node
@pytest.mark.parametrize("t", [0, 0.3, 1])
@pytest.mark.parametrize("b", [[0.3, -1, 2], [-2, 0, 1], [2, 4, -2]], ids=str)
def test_slerp_agrees_with_python(t, b):
    from cvae.imaging import slerp

    a = [1, 2, -1]
    result = node(
        """import { slerp } from "./cvae.js";
        const [a, b, t] = JSON.parse(process.argv[1]);
        console.log(JSON.stringify([...slerp(Float32Array.from(a), Float32Array.from(b), t)]));""",
        json.dumps([a, b, t]),
    )
    expected = slerp(np.array(a, np.float32), np.array(b, np.float32), np.array([[t]], np.float32))[0]
    np.testing.assert_allclose(json.loads(result.stdout), expected, atol=1e-5)


@needs_node
def test_truncated_file_and_file_of_another_format_are_rejected():
    """The file is truncated at each multiple of 1,024 bytes. The spec comes last, so no truncated file contains it."""
    result = node(
        """import { readFileSync } from "node:fs";
        import { readSpec } from "./cvae.js";
        const file = readFileSync(process.argv[1]);
        const readError = (bytes) => { try { readSpec(bytes); return ""; } catch (error) { return error.message; } };
        let count = 0;
        for (let length = 0; length < file.length; length += 1024) {
            if (/not an ONNX file|not exported by cvae/.test(readError(file.subarray(0, length)))) count++;
        }
        const text = new TextEncoder().encode("this is not an ONNX file");
        const ones = new Uint8Array(20).fill(255);
        console.log(JSON.stringify([count, readError(text), readError(ones), readSpec(file)]));""",
        models()[DEFAULT] / "decoder.onnx",
    )
    count, text, ones, spec = json.loads(result.stdout)
    assert count == -(-(models()[DEFAULT] / "decoder.onnx").stat().st_size // 1024)
    assert "not an ONNX file" in text and "too long" in ones
    assert spec["latent_dim"] == cvae.load().spec.latent_dim and tuple(spec["classes"]) == cvae.load().spec.classes


def bash_lines(document: Path, heading: str = "") -> list[str]:
    """Return the lines of the first bash block after a heading."""
    (block, *_) = re.findall(rf"{heading}.*?```bash\n(.*?)```", document.read_text(), flags=re.DOTALL)
    return block.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("document", "heading"), [("docs/deploy.md", "## In Node"), ("examples/node/README.md", "")])
def test_documented_commands_generate_a_seven(checkout, document, heading):
    commands = bash_lines(ROOT / document, heading)
    assert "npm install" in commands
    script = "\n".join(["set -e", *(line for line in commands if line != "npm install")])
    folder = checkout if heading else checkout / "examples" / "node"
    seven = checkout / "examples" / "node" / "seven.png"
    seven.unlink(missing_ok=True)
    result = subprocess.run(script, shell=True, cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    with Image.open(seven) as image:
        assert image.size == (28, 28)
        digit = np.asarray(image.convert("L"), np.float32)[None, None] / 255
    predict = load_feature_extractor("mnist").predict
    assert predict is not None and predict(digit)[0] == 7


def generate(checkout: Path, *args: object) -> subprocess.CompletedProcess[str]:
    folder = checkout / "examples" / "node"
    return subprocess.run([str(NODE), "generate.js", *map(str, args)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_same_noise_gives_same_image_as_python(checkout, trained, tmp_path, kind):
    model = cvae.load(trained[kind])
    noise = model.noise(1, seed=11)
    (tmp_path / "noise.f32").write_bytes(noise.astype("<f4").tobytes())
    label = ["--label", "7"] if kind == "labels" else []
    result = generate(
        checkout, trained[kind] / "decoder.onnx", *label, "--noise", tmp_path / "noise.f32", "--out", tmp_path / "x.png"
    )
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    expected = imaging.to_uint8(model.decode(noise, 7 if label else None))[0, 0]
    assert np.abs(pixels - expected).max() <= 1 and expected.std() > 20


def test_decoder_and_encoder_agree_with_python(checkout):
    model = cvae.load()
    noise = model.noise(3, seed=4)
    program = """
        import { readFileSync } from "node:fs";
        import * as ort from "onnxruntime-node";
        import { load } from "./cvae.js";
        const files = ["decoder", "encoder"].map((role) => readFileSync(`${process.argv[2]}/${role}.onnx`));
        const model = await load(ort, files[0]);
        const errors = [];
        await model.addEncoder(files[0]).catch((error) => errors.push(error.message));
        await model.addEncoder(files[1]);
        const images = await model.decode(Float32Array.from(JSON.parse(process.argv[3])), ["7", 1, 0]);
        const { mean, std } = await model.encode(images, ["7", 1, 0]);
        for (const [values, labels] of [[41, [0]], [40, []], [40, [-1]], [40, [10]], [0, []]]) {
            await model.decode(new Float32Array(values), labels).catch((error) => errors.push(error.message));
        }
        console.log(JSON.stringify([[...images], [...mean], [...std], errors]));
    """
    path = checkout / "examples" / "node" / "compare.js"
    path.write_text(program)
    result = subprocess.run(
        [str(NODE), path, models()[DEFAULT], json.dumps(noise.ravel().tolist())], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    *actual, errors = json.loads(result.stdout)
    images = model.decode(noise, [7, 1, 0])
    for values, expected in zip(actual, (images, *model.encode(images, [7, 1, 0])), strict=True):
        np.testing.assert_allclose(np.reshape(values, expected.shape), expected, atol=1e-4, rtol=1e-4)
    assert len(errors) == 6 and "the encoder is needed" in errors[0]
    assert '"-1"' in errors[3] and '"10"' in errors[4]


def test_readme_program_generates_same_image_as_python(checkout):
    (program,) = re.findall(r"```js\n(.*?)```", (ROOT / "examples/node/README.md").read_text(), flags=re.DOTALL)
    folder = checkout / "examples" / "node"
    shutil.copy(models()[DEFAULT] / "decoder.onnx", folder)
    (folder / "own.js").write_text(program + "console.log(JSON.stringify([[...image], [...normal(7, 40)]]));")
    result = subprocess.run([str(NODE), "own.js"], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    image, noise = json.loads(result.stdout)
    expected = cvae.load().decode(np.array(noise, np.float32)[None], 7)
    np.testing.assert_allclose(np.reshape(image, expected.shape), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one model file"),
        (["nowhere.onnx"], "nowhere.onnx"),
        (["package.json"], "damaged or not an ONNX file"),
        (["{zoo}/encoder.onnx"], "the decoder is needed"),
        (["{zoo}/decoder.onnx", "--label", "12"], '"12"'),
        (["{zoo}/decoder.onnx", "--label", "-1"], "label"),
        (["{zoo}/decoder.onnx", "--seed", "x"], '"x"'),
        (["{zoo}/decoder.onnx", "--bogus"], "--bogus"),
    ],
)
def test_example_rejects_invalid_arguments_with_a_one_line_error(checkout, arguments, words):
    result = generate(checkout, *(argument.format(zoo=models()[DEFAULT]) for argument in arguments))
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r"generate: error: .*\n", result.stderr) and words in result.stderr
    assert not (checkout / "examples" / "node" / "generated.png").exists()
