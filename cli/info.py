"""The command `cvae info`."""

from typing import Any

from cvae.api import models
from cvae.cli import _shared


@_shared.add_model_option()
def info(model: _shared.ModelName = None, json: _shared.Json = False) -> None:
    """Describe a run, an exported file or a zoo model.

    Examples:
      cvae info
      cvae info mnist-resnet-conditional
      cvae info runs/mnist-small-resnet/decoder.onnx --json
    """
    from cvae.errors import one_line

    description = models.info(model, note=_shared.echo)
    texts = description | {"conditions": _describe_conditions(description["conditions"])}
    width = max(map(len, description))
    lines = [  # one_line, because an untrusted file must not control the terminal
        f"{key:{width}}  {one_line(_format_value(value), 2**16)}" for key, value in texts.items() if value is not None
    ]
    _shared.report(json, description, "\n".join(lines))


def _describe_conditions(conditions: list[dict[str, Any]]) -> str:
    """Return the conditions on one line, such as "age: number 0..10 years, or unknown; smiling: attribute"."""
    from cvae.conditions import Condition

    texts = []
    for fields in conditions:
        condition = Condition(**{**fields, "values": tuple(fields.get("values", ()))})
        texts.append(f"{condition.name}: {condition.describe()}{', or unknown' if condition.optional else ''}")
    return "; ".join(texts) or "none"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format_value(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
