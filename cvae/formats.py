"""Conversion of specs and configs of format 1, which had class names instead of conditions. Does not import torch."""

from collections.abc import Mapping
from typing import Any

from cvae.conditions import CATEGORY, LABEL
from cvae.errors import UsageError
from cvae.serialization import quote

FORMAT = 2
"""Current version of the format of specs and configs. Version 1 can be read too."""


def upgrade_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the spec of an exported file to the current format.

    Raises:
        UsageError: If a key is missing, or the class names are not a list.
    """
    return _rename(spec, "the spec") | {"conditions": _upgrade_classes(spec)}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the content of a config.json to the current format.

    Raises:
        UsageError: If a key is missing, or the class names are not a list.
    """
    new = _rename(config, "the config")
    if isinstance(model := new.get("model"), dict):
        new["model"] = {key: value for key, value in model.items() if key != "classes"}
        new["model"]["conditions"] = _upgrade_classes(model)
    training = new.get("training")
    options = training.get("options") if isinstance(training, dict) else None
    if isinstance(training, dict) and isinstance(options, dict):
        if "data" in options:
            new["fingerprint"] = options["data"]  # where versions without fingerprints accepted any key
        options = {key: value for key, value in options.items() if key != "data"}
        if training.get("objective") == "elbo" and isinstance(objective := options.get("objective"), dict):
            options["objective"] = {"antithetic": False, **objective}  # the default of that time
        new["training"] = {**training, "options": options}
    return new


def _rename(data: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the data with the current format and names of keys, without the class names."""
    if "data_terms" not in data:
        raise UsageError(f"{what} lacks the key 'data_terms'")
    new = {key: value for key, value in data.items() if key not in ("classes", "data_terms")}
    return new | {"format": FORMAT, "data_license": data["data_terms"]}


def _upgrade_classes(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conditions that stand for the class names of a model; these are None for a model without labels."""
    if "classes" not in data:
        raise UsageError("the key 'classes' is missing")
    if data["classes"] is None:
        return []
    if not isinstance(data["classes"], list):
        raise UsageError(f"classes is {quote(data['classes'])}, not a list of names")
    return [{"name": LABEL, "kind": CATEGORY, "values": data["classes"]}]
