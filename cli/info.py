"""The command `cvae info`."""

from typing import Any

from cvae.api import models
from cvae.cli import _shared


def info(model: _shared.ModelName = None, json: _shared.Json = False) -> None:
    """Describe a run, an exported file or a zoo model.

    Examples:
      cvae info
      cvae info mnist-resnet-conditional
      cvae info runs/mnist-small-resnet/decoder.onnx --json
    """
    from cvae.errors import one_line

    description = models.info(model, note=_shared.echo)
    width = max(map(len, description))
    lines = [  # one_line, because an untrusted file must not control the terminal
        f"{key:{width}}  {one_line(_format_value(value), 2**16)}"
        for key, value in description.items()
        if value is not None
    ]
    _shared.report(json, description, "\n".join(lines))


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format_value(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
