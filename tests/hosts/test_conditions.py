"""Conditions in every host: the images are those of `cvae.load`, and invalid values are errors of one line."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from conditional_hosts import SEED, Rejected
from untrained_model import export_model

import cvae
from cvae.conditions import Condition

pytestmark = pytest.mark.integration

GREY_LEVEL, ROUNDING = 1.001 / 255, 1e-5

HOSTS = {
    "cpp": GREY_LEVEL,
    "fastapi": ROUNDING,
    "fastapi_json": ROUNDING,
    "gradio": ROUNDING,
    "node": GREY_LEVEL,
    "page": ROUNDING,
    "ray_data": GREY_LEVEL,
    "ray_serve": GREY_LEVEL,
    "triton": GREY_LEVEL,
}
"""Fixture of a host -> largest difference from Python's image. Hosts that return PNG files round to grey levels."""

VALUES = {"label": "b", "age": 2.5, "traits": {"beard": False, "hat": True}}
"""Name of a condition -> a valid value. There is one condition of each kind: category, number, attributes."""

INVALID = {
    "label": ("z", ["label", "z", "a, b, c"]),
    "age": (11, ["age", "11", "0..10"]),
    "traits": ({"beard": True, "hat": False, "tie": True}, ["traits", "tie", "beard"]),
}
"""Name of a condition -> a value that is out of range, and what the error contains."""


CONTROLS = {"gradio"}
"""Hosts with a control for each condition, so that neither unknown names nor numbers beyond the range can be chosen."""


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Any:
    generate = request.getfixturevalue(request.param)
    generate.tolerance = HOSTS[request.param]
    return generate


def decode(model: Any, noise: np.ndarray, values: Mapping[str, Any], **options: Any) -> np.ndarray:
    return model.decode(noise, **values, **options)[0]


@pytest.fixture
def model(conditional: Any) -> Any:
    return cvae.load(conditional)


def check(host: Any, model: Any, values: Mapping[str, Any], other: Mapping[str, Any], **options: Any) -> None:
    """Check that a host and Python generate the same image, and that it differs from the one of other values."""
    noise = getattr(host, "noise", model.noise(1, SEED))
    expected = decode(model, noise, values, **options)
    np.testing.assert_allclose(host(values, **options), expected, rtol=0, atol=host.tolerance)
    assert np.abs(expected - decode(model, noise, other)).max() > 20 * GREY_LEVEL


@pytest.mark.parametrize("name", VALUES)
def test_known_value_gives_the_image_of_python(host, model, name):
    check(host, model, {name: VALUES[name]}, {})


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("explicit", [False, True], ids=["left out", "null"])
def test_unknown_value_gives_the_image_of_python(host, model, name, explicit):
    others = {other: value for other, value in VALUES.items() if other != name}
    check(host, model, others | ({name: None} if explicit else {}), VALUES)


@pytest.mark.parametrize("name", INVALID)
def test_value_out_of_range_is_an_error_that_names_the_condition(host, name):
    value, words = INVALID[name]
    with pytest.raises(Rejected) as caught:
        host(VALUES | {name: value})
    line = str(caught.value).strip()
    assert "\n" not in line and all(word in line for word in words), line


@pytest.mark.parametrize("host", sorted(HOSTS.keys() - CONTROLS), indirect=True)
def test_number_beyond_the_range_is_accepted_on_request(host, model):
    check(host, model, {"age": 14}, {"age": 10}, extrapolate=True)


@pytest.mark.parametrize("host", sorted(HOSTS.keys() - CONTROLS), indirect=True)
def test_unknown_condition_is_an_error_that_names_the_conditions(host):
    with pytest.raises(Rejected) as caught:
        host({"agee": 3})
    line = str(caught.value).strip()
    assert "\n" not in line and "agee" in line and re.search(r"\bage\b", line), line


@pytest.fixture(scope="session")
def optional_breed(tmp_path_factory):
    """Return the folder of a model whose only condition is a category that may be unknown."""
    breed = Condition(name="breed", kind="category", values=("pug", "husky"), optional=True)
    return export_model(tmp_path_factory.mktemp("breed") / "dogs", (breed,))


@pytest.mark.parametrize("make_host", ["cpp_program", "node_program"])
@pytest.mark.parametrize("values", [{}, {"breed": None}, {"breed": "husky"}, {"label": "husky"}], ids=str)
def test_only_category_may_be_unknown(request, optional_breed, make_host, values):
    """Such a model has no input `known`: the index K stands for an unknown value."""
    model = cvae.load(optional_breed)
    generate = request.getfixturevalue(make_host)(optional_breed)
    expected = model.decode(model.noise(1, SEED), **values)[0]
    np.testing.assert_allclose(generate(values), expected, rtol=0, atol=GREY_LEVEL)
    known = "pug" if any(values.values()) else "husky"
    assert np.abs(expected - model.decode(model.noise(1, SEED), breed=known)).max() > 20 * GREY_LEVEL
