"""Images in terminals that can display them."""

import base64
import io
import os
from collections.abc import Mapping

from PIL import Image


def inline_escape_sequence(image: Image.Image, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return an escape sequence that displays an image, or None if the terminal has no known protocol for images.

    The protocols are kitty's (https://sw.kovidgoyal.net/kitty/graphics-protocol) and iTerm2's
    (https://iterm2.com/documentation-images.html). tmux and screen do not pass such sequences through.
    """
    program, terminal = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if environment.get("TMUX") or terminal.startswith(("screen", "tmux")):
        return None
    is_kitty = "kitty" in terminal or "KITTY_WINDOW_ID" in environment or program == "ghostty"
    if not is_kitty and program not in ("iTerm.app", "WezTerm"):
        return None
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if not is_kitty:
        return f"\033]1337;File=inline=1;size={len(file.getvalue())}:{data}\a"
    chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]  # kitty's maximum length of the data in a sequence
    headers = ["a=T,f=100,"] + [""] * (len(chunks) - 1)
    return "".join(
        f"\033_G{header}m={int(i + 1 < len(chunks))};{chunk}\033\\"
        for i, (header, chunk) in enumerate(zip(headers, chunks, strict=True))
    )
