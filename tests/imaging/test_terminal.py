"""Images shown inline in a terminal."""

import base64
import io
import re

import numpy as np
from PIL import Image

from cvae.imaging.terminal import inline_escape_sequence


def test_images_are_encoded_only_for_kitty_and_iterm():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))
    kitty = inline_escape_sequence(image, {"TERM": "xterm-kitty"})
    parts = re.findall("\033_G(.*?);(.*?)\033\\\\", kitty)
    assert "".join(f"\033_G{head};{data}\033\\" for head, data in parts) == kitty and len(parts) > 1
    assert [head for head, _ in parts] == ["a=T,f=100,m=1", *["m=1"] * (len(parts) - 2), "m=0"]
    assert max(len(data) for _, data in parts) <= 4096
    iterm = re.fullmatch(
        "\033]1337;File=inline=1;size=([0-9]+):(.*)\a", inline_escape_sequence(image, {"TERM_PROGRAM": "iTerm.app"})
    )
    assert iterm and len(base64.b64decode(iterm[2])) == int(iterm[1])
    for data in ("".join(data for _, data in parts), iterm[2]):
        with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
            assert np.array_equal(np.asarray(decoded), np.asarray(image))
    assert inline_escape_sequence(image, {"TERM": "xterm-256color"}) is None
    assert inline_escape_sequence(image, {"TERM": "tmux-256color", "TERM_PROGRAM": "WezTerm", "TMUX": "x"}) is None
