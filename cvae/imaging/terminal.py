"""Images in terminals that can show them."""

import base64
import io
import os
from collections.abc import Mapping

from PIL import Image


def inline(image: Image.Image, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the escape sequence that shows an image in the terminal, or None if the terminal has no known protocol.

    The protocols are kitty's (https://sw.kovidgoyal.net/kitty/graphics-protocol) and iTerm2's
    (https://iterm2.com/documentation-images.html). tmux and screen do not pass them through.
    """
    program, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if environment.get("TMUX") or kind.startswith(("screen", "tmux")):
        return None
    kitty = "kitty" in kind or "KITTY_WINDOW_ID" in environment or program == "ghostty"
    if not kitty and program not in ("iTerm.app", "WezTerm"):
        return None
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if not kitty:
        return f"\033]1337;File=inline=1;size={len(file.getvalue())}:{data}\a"
    parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]  # the limit of one sequence
    heads = ["a=T,f=100,"] + [""] * (len(parts) - 1)
    return "".join(
        f"\033_G{head}m={int(i + 1 < len(parts))};{part}\033\\"
        for i, (head, part) in enumerate(zip(heads, parts, strict=True))
    )
