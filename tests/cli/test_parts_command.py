"""`cvae parts` and `cvae.parts`: the parts of a model and their options."""

import json
import re
from typing import Annotated, Any

import pytest

import cvae as package
from cvae import registry
from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.registry import REGISTRIES


def mixer(*, width: Annotated[int, Interval(minimum=1, maximum=64)] = 8, sizes: tuple[int, ...] = (4,)) -> None:
    """Mix.

    Args:
        width: number of channels,
            at each level.
    """


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.setitem(registry.ARCHITECTURES._registered, "mixer", mixer)


def test_parts_lists_every_part(cvae):
    report = cvae("parts", "--json").json
    assert report == package.parts()
    assert sorted(map(sorted, report.values())) == sorted(map(sorted, REGISTRIES.values()))
    text = cvae("parts").out
    assert all(re.search(rf"^  {name} +\S", text, flags=re.MULTILINE) for names in report.values() for name in names)


def test_options_of_a_part_are_listed(cvae):
    report = cvae("parts", "mixer", "--json").json
    assert report == json.loads(json.dumps(package.parts("mixer")))
    assert (report["name"], report["flag"]) == ("mixer", "--arch")
    assert report["options"] == {
        "width": {
            "type": "int",
            "default": 8,
            "range": "at least 1 and at most 64",
            "help": "Number of channels, at each level.",
        },
        "sizes": {"type": "tuple", "default": [4], "range": None, "help": ""},
    }
    text = cvae("parts", "mixer").out
    assert text.startswith("--arch mixer: ") and max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "--set arch.width=N Number of channels, at each level. [default: 8; at least 1 and at most 64]" in words
    assert "--set arch.sizes=[N,...] [default: [4]]" in words


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_option_of_a_built_in_part_is_described(cvae, kind):
    for name in REGISTRIES[kind]:
        if name != "mixer":
            options = package.parts(f"{kind}.{name}")["options"]
            assert options.keys() == REGISTRIES[kind].options(name).keys()
            assert all(re.fullmatch(r"[A-Z].*\.", option["help"]) for option in options.values()), name
            assert cvae("parts", name).code == 0


def test_options_of_an_exporter_are_listed_as_export_flags(cvae):
    text = cvae("parts", "triton").out
    assert text.startswith("export triton: ") and "  --encoder" in text and "--set" not in text
    assert "It has no options." in cvae("parts", "film").out


def test_error_for_unknown_part_suggests_similar_names(cvae):
    result = cvae("parts", "resnt")
    assert (result.code, result.out) == (2, "")
    assert "there is no part 'resnt'; did you mean 'resnet'" in result.err


def test_ambiguous_part_name_is_rejected(cvae, monkeypatch):
    monkeypatch.setitem(registry.PRIORS._registered, "mixer", lambda: None)
    with pytest.raises(UsageError, match=r"several parts named 'mixer'; choose one of arch\.mixer, prior\.mixer"):
        package.parts("mixer")
    part: dict[str, Any] = package.parts("prior.mixer")
    assert part["flag"] == "--prior" and part["options"] == {}
