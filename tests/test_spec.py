"""Conversion of the spec of an exported file to and from JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvae.conditions import label_condition
from cvae.errors import CvaeError
from cvae.formats import FORMAT
from cvae.spec import Spec

fast_settings = settings(deadline=None, max_examples=60)


def make_spec(**changes) -> Spec:
    fields = {
        "role": "decoder",
        "name": "some",
        "architecture": "mlp",
        "image_shape": (1, 8, 8),
        "latent_dim": 8,
        "conditions": label_condition(("5", "7")),
        "likelihood": "bernoulli",
        "prior": "normal",
        "data": "digits",
        "data_license": "free",
        "weights": "0" * 64,
    }
    return Spec(**{**fields, **changes})


printable = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=12)
agreements = st.fixed_dictionaries(
    {},
    optional={
        "max_abs_difference": st.floats(0, 1),
        "batches": st.lists(st.integers(1, 64), max_size=4),
        "weights": st.just("float16"),
    },
)
specs = st.builds(
    Spec,
    role=st.sampled_from(["decoder", "encoder"]),
    name=printable,
    architecture=printable,
    image_shape=st.tuples(*[st.integers(1, 4096)] * 3),
    latent_dim=st.integers(1, 65536),
    conditions=(st.none() | st.lists(printable, min_size=1, max_size=5, unique=True)).map(label_condition),
    likelihood=printable,
    prior=printable,
    data=printable,
    data_license=printable,
    agreement=agreements,
    license=printable,
    weights=printable,
    producer=printable,
)


LABEL = {"name": "label", "kind": "category", "values": ["cat", "dog"]}


@fast_settings
@given(specs)
def test_spec_survives_conversion_to_json(spec):
    assert Spec.from_json(spec.to_json(), "here") == spec
    assert json.loads(spec.to_json())["format"] == FORMAT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "format 3.*upgrade cvae-onnx"),
        ({"format": None}, "format None"),
        ({"latent": 3}, "'latent'.*'latent_dim'"),
        ({"latent_dim": "8"}, "latent_dim.*'8'"),
        ({"latent_dim": 0}, "latent_dim 0"),
        ({"latent_dim": True}, "latent_dim.*True"),
        ({"image_shape": [1, 8]}, r"\[1, 8\]"),
        ({"image_shape": [1, 8, -8]}, "-8"),
        ({"role": "other"}, "'other'"),
        ({"conditions": None}, "conditions"),
        ({"conditions": [LABEL | {"values": []}]}, "condition 'label' has 0 values"),
        ({"conditions": [LABEL | {"values": [1, 2]}]}, "values"),
        ({"conditions": [LABEL | {"values": ["cat", "dog", "cat"]}]}, "has the value 'cat' more than once"),
        ({"conditions": [LABEL | {"kind": "other"}]}, "kind 'other'"),
        ({"conditions": [LABEL | {"name": "noise"}]}, "'noise', which is an argument"),
        ({"conditions": [LABEL, LABEL]}, "two conditions have the name 'label'"),
        ({"conditions": [LABEL, LABEL | {"name": "other"}]}, "must be optional"),
        ({"conditions": [{"name": "age", "kind": "number", "low": 2, "high": 1, "optional": True}]}, r"2\.0\.\.1\.0"),
        *(({"name": f"a{character}b"}, "hides text") for character in "\x1b\n\u202e\u2066\u2028\ud800"),
        ({"conditions": [LABEL | {"values": ["a", "\udfff"]}]}, "hides text"),
        ({"agreement": {"max_abs_difference": "\x1b[2J"}}, "agreement has an invalid 'max_abs_difference'"),
        ({"agreement": {"max_abs_difference": True}}, "agreement has an invalid 'max_abs_difference': True"),
        ({"agreement": {"batches": ["\x1b[2J"]}}, "agreement has an invalid 'batches'"),
        ({"agreement": {"batches": {"a": 1}}}, "agreement has an invalid 'batches'"),
        ({"agreement": {"weights": ["float16"]}}, "agreement has an invalid 'weights'"),
        ({"agreement": {"\x1b[2J": 1}}, "agreement has an invalid"),
    ],
    ids=str,
)
def test_newer_or_invalid_spec_is_rejected(changes, words):
    text = json.dumps({**json.loads(make_spec().to_json()), **changes})
    with pytest.raises(CvaeError, match=f"'some-file'.*{words}") as caught:
        Spec.from_json(text, "some-file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000], ids=lambda text: text[:4] or "empty")
def test_text_that_is_not_a_spec_is_rejected(text):
    with pytest.raises(CvaeError, match="'some-file' does not have a valid cvae spec"):
        Spec.from_json(text, "some-file")
