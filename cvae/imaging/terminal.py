"""Pictures in terminals that can show them."""

import base64
import io
import os
from collections.abc import Mapping

from PIL import Image


def inline(picture: Image.Image, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to print for the terminal that the environment names to show a picture; None if it is not known to.

    Kitty's protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol) and iTerm2's
    (https://iterm2.com/documentation-images.html). Within tmux and screen neither passes through.
    """
    program, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if environment.get("TMUX") or kind.startswith(("screen", "tmux")):
        return None
    kitty = "kitty" in kind or "KITTY_WINDOW_ID" in environment or program == "ghostty"
    if not kitty and program not in ("iTerm.app", "WezTerm"):
        return None
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if not kitty:
        return f"\033]1337;File=inline=1;size={len(file.getvalue())}:{data}\a"
    parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]  # the most that one sequence holds
    heads = ["a=T,f=100,"] + [""] * (len(parts) - 1)
    return "".join(
        f"\033_G{head}m={int(i + 1 < len(parts))};{part}\033\\"
        for i, (head, part) in enumerate(zip(heads, parts, strict=True))
    )
