"""Programs in docs/embedding.md that other tests do not run: the HTML page and the Gradio page."""

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import code_blocks, free_port, wait_for
from PIL import Image

import cvae
from cvae import imaging

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "embedding.md").read_text("utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")}


def test_html_page_shows_sevens(in_tmp):
    (program,) = code_blocks(SECTIONS["An HTML page"], "python")
    exec(program, {})
    attributes = {}
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, pairs: attributes.update({tag: dict(pairs)})
    parser.feed(Path("page.html").read_text())
    media_type, _, data = attributes["img"]["src"].partition(",")
    assert media_type == "data:image/png;base64" and attributes["img"]["alt"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        grid = cvae.load().generate(16, label=7, seed=1).to_pil()
        np.testing.assert_array_equal(image, imaging.enlarge(grid))


def test_embedded_file_is_part_of_the_exported_page():
    (block,) = code_blocks(SECTIONS["An HTML page"], "html")
    (name,) = re.findall(r'src="site/([^"]+)"', block)
    assert (ROOT / "exporters" / "page" / name).is_file()
    assert "cvae export web --out site`" in SECTIONS["An HTML page"]


# -- Gradio ------------------------------------------------------------------------------------------------------------


def test_gradio_program_in_the_document_equals_the_example():
    (program,) = code_blocks(SECTIONS["Gradio"], "py")
    _, _, code = (EXAMPLES / "gradio" / "app.py").read_text().partition('"""\n\n')
    assert program == code


@pytest.mark.slow
def test_gradio_page_generates_the_chosen_digit():
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = free_port()
    _, command = code_blocks(SECTIONS["Gradio"], "console")[0].splitlines()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_SERVER_PORT": port}
    with subprocess.Popen([sys.executable, *command.split()[1:]], cwd=ROOT, env=environment) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, server)
            from gradio_client import Client

            path = Client(address, verbose=False).predict("7", 1)
        finally:
            server.terminate()
    with Image.open(path) as image:
        expected = imaging.enlarge(cvae.load().generate(16, label=7, seed=1).to_pil())
        np.testing.assert_array_equal(image.convert("L"), expected)
