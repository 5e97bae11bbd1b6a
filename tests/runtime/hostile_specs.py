"""Edits that give an exported decoder a spec that is invalid or contradicts its graph."""

import json
from typing import Any

import onnx
from model_edits import EDITS, change_spec, register

SPEC_CHANGES: dict[str, dict[str, Any]] = {
    "larger_latent": {"latent_dim": 9},
    "huge_latent": {"latent_dim": 2**40},
    "latent_as_string": {"latent_dim": "8"},
    "latent_with_4000_digits": {"latent_dim": 10**4000},
    "larger_image": {"image_shape": [1, 8, 9]},
    "more_channels": {"image_shape": [3, 8, 8]},
    "huge_image": {"image_shape": [1, 4096, 4096]},
    "overflowing_image": {"image_shape": [2**62, 2**62, 2**62]},
    "image_of_size_zero": {"image_shape": [0, 8, 8]},
    "negative_image": {"image_shape": [1, -8, -8]},
    "image_without_channels": {"image_shape": [8, 8]},
    "missing_classes": {"classes": None},
    "empty_classes": {"classes": []},
    "fewer_classes": {"classes": list("01234567")},
    "more_classes": {"classes": list("0123456789a")},
    "many_classes": {"classes": ["x"] * 300_000},
    "classes_as_numbers": {"classes": list(range(10))},
    "class_name_that_clears_the_screen": {"classes": [*"012345678", "\x1b[2J"]},
    "class_with_line_break": {"classes": [*"012345678", "9\ncvae: error: all is well"]},
    "huge_class_name": {"classes": [*"012345678", "9" * 1_000_000]},
    "huge_model_name": {"name": "x" * 1_000_000},
    "unknown_key": {"trust": True},
    "huge_unknown_key": {"k" * 1_000_000: True},
    "other_role": {"role": "encoder"},
    "unknown_role": {"role": "x"},
    "other_value_range": {"value_range": [0, 255]},
    "negative_sigma": {"sigma": -1.0},
    "huge_format": {"format": "9" * 100_000},
    "deep_agreement": {"agreement": json.loads("[" * 100 + "]" * 100)},
    "agreement_that_is_not_an_object": {"agreement": 3},
    "agreement_that_clears_the_screen": {"agreement": {"max_abs_difference": "\x1b[2J"}},
    "half_of_a_surrogate_pair": {"name": "\ud800"},
    "name_with_reversed_text": {"name": "\u202egnp.exe"},
}
for _name, _changes in SPEC_CHANGES.items():

    def _change_spec(model: onnx.ModelProto, changes: dict[str, Any] = _changes) -> None:
        change_spec(model, **changes)

    EDITS[f"spec_{_name}"] = _change_spec

SPEC_STRINGS = {
    "not_json": "{",
    "not_an_object": "[]",
    "empty": "",
    "deep": '{"format": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep_objects": '{"x":' * 50_000 + "1" + "}" * 50_000,
    "many_lists": "[" + ",".join(["[]"] * 600_000) + "]",
    "many_objects": "[" + ",".join(["{}"] * 600_000) + "]",
    "not_finite": '{"format": 1, "sigma": NaN}',
    "overflowing_float": '{"format": 1, "sigma": 1e999}',
    "number_of_a_million_digits": '{"format": ' + "9" * 1_000_000 + "}",
}
for _name, _text in SPEC_STRINGS.items():

    def _replace_spec(model: onnx.ModelProto, text: str = _text) -> None:
        model.metadata_props[0].value = text

    EDITS[f"spec_{_name}"] = _replace_spec


@register
def spec_with_duplicate_key(model):
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"latent_dim": 8', '"latent_dim": 8, "latent_dim": 8')
    assert entry.value.count("latent_dim") == 2
