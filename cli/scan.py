"""The command `cvae scan`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.cli import _shared


def scan(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Exported files, images, files of a run, or run folders."),
    ],
    json: _shared.Json = False,
) -> None:
    """Check untrusted files without using them.

    The exit status is 0 if all files are accepted, and 1 if any is rejected. For an exported file, the result contains
    upper bounds on the memory and the multiplications that an image takes.

    Examples:
      cvae scan downloads/decoder.onnx
      cvae scan runs/mine --json
    """
    from cvae.api.scan import scan as scan_files

    results = scan_files(paths)
    _shared.report(json, {"files": results}, "\n".join(map(_format, results)))
    if not all(result["accepted"] for result in results):
        raise typer.Exit(1)


def _format(result: dict[str, Any]) -> str:
    from cvae.errors import one_line

    if not result["accepted"]:
        return f"rejected  {one_line(result['reason'], 500)}"
    text = f"accepted  {one_line(result['path'], 200)}: {result['kind']}"
    if (bounds := result["bounds"]) is not None:
        text += (
            f"; an image takes at most {bounds['bytes_per_image'] / 2**20:,.1f} MB and "
            f"{bounds['multiplications_per_image'] / 1e6:,.1f} million multiplications"
        )
    return text
