"""Registries: listing parts without importing them, broken plug-ins, and checks of options."""

import json
import subprocess
import sys
from functools import partial
from importlib import metadata

import pytest

from cvae import registry
from cvae.errors import CvaeError, MissingExtraError, UsageError, install_command
from cvae.registry import Builtin, Registry

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
BUILTIN = [(name, part) for name, parts in REGISTRIES.items() for part in parts]
GROUP = "cvae.things"


def part(
    image: int = 1,
    *,
    width: int = 8,
    rate: float = 0.5,
    sizes: tuple[int, ...] = (4,),
    deep: bool = False,
    name: str = "a",
) -> dict[str, object]:
    return {"width": width}


wide = partial(part, width=16, sizes=(4, 4))


def unbounded(*, limit: int | None = None) -> None: ...


def make_registry(monkeypatch: pytest.MonkeyPatch, **plugins: str) -> Registry:
    """Return a registry with the parts "thing", "wide" and "unbounded", and with plug-ins from entry points."""
    real_entry_points = metadata.entry_points
    plugin_entry_points = [metadata.EntryPoint(name.replace("_", "-"), value, GROUP) for name, value in plugins.items()]

    def entry_points(**selection):
        if selection["group"] == GROUP:
            return metadata.EntryPoints(plugin_entry_points).select(**selection)
        return real_entry_points(**selection)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    targets = {"thing": "part", "wide": "wide", "unbounded": "unbounded"}
    builtin = {name: Builtin(f"{__name__}:{attribute}", f"the {name}") for name, attribute in targets.items()}
    return Registry("thing", GROUP, builtin)


# -- built-in parts ----------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_listing_parts_imports_none_of_them():
    program = """if True:
        import sys
        from cvae import registry
        for parts in [value for value in vars(registry).values() if isinstance(value, registry.Registry)]:
            assert list(parts) and all(parts.summary(name) and name in parts for name in parts)
        print(*{name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "onnxruntime", "sklearn", "numpy"})
        print(*[name for name in sys.modules if name.startswith(("cvae.models", "cvae.data"))])
    """
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.split() == []


def test_each_registry_has_its_own_entry_point_group():
    assert set(REGISTRIES) >= {
        "ARCHITECTURES",
        "CONDITIONINGS",
        "LIKELIHOODS",
        "PRIORS",
        "OBJECTIVES",
        "OPTIMIZERS",
        "DATASETS",
    }
    assert {name: parts.group for name, parts in REGISTRIES.items()} == {
        name: f"cvae.{name.lower()}" for name in REGISTRIES
    }


@pytest.mark.parametrize(("name", "part"), BUILTIN)
def test_every_part_loads_and_its_options_survive_json(name, part):
    parts = REGISTRIES[name]
    assert callable(parts.get(part))
    options = parts.options(part)
    stored = json.loads(json.dumps(options))
    assert parts.resolve(part, stored) == options  # the options recorded in config.json build the same part
    assert parts.resolve(part, {}) == options


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "suggestion"),
    [("ARCHITECTURES", "resnett", "'resnet'"), ("DATASETS", "mnsit", "'mnist'"), ("PRIORS", "qqq", "known: normal")],
)
def test_error_for_unknown_part_suggests_similar_names(name, wrong, suggestion):
    with pytest.raises(UsageError) as caught:
        REGISTRIES[name].get(wrong)
    assert f"{REGISTRIES[name].kind} {wrong!r}" in str(caught.value) and suggestion in str(caught.value)
    assert wrong not in REGISTRIES[name]


def test_program_can_register_a_part_only_under_a_new_name(monkeypatch):
    parts = make_registry(monkeypatch, plug_in=f"{__name__}:wide")
    parts.register("mine", unbounded)
    assert parts.get("mine") is unbounded and "mine" in parts
    assert list(parts) == ["thing", "wide", "unbounded", "plug-in", "mine"]
    for taken in parts:
        with pytest.raises(UsageError, match=f"'{taken}' already exists"):
            parts.register(taken, part)


# -- plug-ins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", REGISTRIES.values(), ids=REGISTRIES)
def test_plugin_is_listed_only_in_its_group(monkeypatch, parts):
    plugin = metadata.EntryPoint("mixer-of-mine", f"{__name__}:wide", parts.group)
    monkeypatch.setattr(metadata, "entry_points", lambda **keys: metadata.EntryPoints([plugin]).select(**keys))
    fresh = {name: Registry(other.kind, other.group, {}) for name, other in REGISTRIES.items()}
    assert [other.group for other in fresh.values() if "mixer-of-mine" in other] == [parts.group]
    (mine,) = [other for other in fresh.values() if other.group == parts.group]
    assert list(mine) == ["mixer-of-mine"] and mine.get("mixer-of-mine") is wide
    assert __name__ in mine.summary("mixer-of-mine")


def test_plugin_is_listed_without_being_imported(monkeypatch):
    assert list(make_registry(monkeypatch, gone="no_such_module:x"))[-1] == "gone"


def test_built_in_part_cannot_be_shadowed(monkeypatch):
    parts = make_registry(monkeypatch, thing=f"{__name__}:unbounded")
    with pytest.warns(UserWarning, match="unbounded' is skipped: 'thing' is a built-in"):
        assert list(parts) == ["thing", "wide", "unbounded"]
    assert parts.get("thing") is part and parts.summary("thing") == "the thing"


BROKEN = {
    "missing module": "no_such_module_of_mine:x",
    "missing attribute": f"{__name__}:no_such_part",
    "error on import": "tests_broken_plugin:x",
}


@pytest.fixture
def broken_module(tmp_path, monkeypatch):
    (tmp_path / "tests_broken_plugin.py").write_text("raise RuntimeError('first line\\nsecond line')")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_get_raises_error_for_broken_plugin(monkeypatch, broken_module, value):
    with pytest.raises(CvaeError) as caught:
        make_registry(monkeypatch, broken=value).get("broken")
    message = str(caught.value)
    assert not isinstance(caught.value, UsageError)  # exit code 1: the arguments were valid
    assert "'broken'" in message and value in message and "uninstall" in message


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_load_all_skips_broken_plugin_with_a_warning(monkeypatch, broken_module, value):
    parts = make_registry(monkeypatch, broken=value, good=f"{__name__}:wide")
    with pytest.warns(UserWarning, match=value):
        loaded = parts.load_all()
    assert loaded == {"thing": part, "wide": wide, "unbounded": unbounded, "good": wide}


def test_error_of_a_broken_plugin_is_one_line(monkeypatch, broken_module):
    with pytest.raises(CvaeError) as caught:
        make_registry(monkeypatch, broken=BROKEN["error on import"]).get("broken")
    assert "\n" not in str(caught.value)


def test_error_for_missing_packages_gives_pip_command():
    parts = Registry("thing", "cvae.none", {"mine": Builtin("no_such_module_of_mine:x", "needs an extra")})
    with pytest.raises(MissingExtraError, match="'mine'") as caught:
        parts.get("mine")
    assert str(caught.value).endswith(install_command("train"))


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_are_the_keyword_parameters_of_a_part(monkeypatch):
    parts = make_registry(monkeypatch)
    defaults = {"width": 8, "rate": 0.5, "sizes": (4,), "deep": False, "name": "a"}
    assert parts.options("thing") == defaults
    assert parts.options("wide") == {**defaults, "width": 16, "sizes": (4, 4)}


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        ({"width": 3}, 3),
        ({"rate": 2}, 2.0),
        ({"rate": 0.25}, 0.25),
        ({"sizes": [1, 2]}, (1, 2)),
        ({"sizes": (1, 2)}, (1, 2)),
        ({"deep": True}, True),
        ({"name": "b"}, "b"),
    ],
    ids=str,
)
def test_option_value_is_converted_to_the_type_of_its_default(monkeypatch, options, resolved):
    parts = make_registry(monkeypatch)
    ((option, _),) = options.items()
    result = parts.resolve("thing", options)
    assert result == {**parts.options("thing"), option: resolved} and type(result[option]) is type(resolved)


@pytest.mark.parametrize(
    "options",
    [{"width": v} for v in ("3", 3.0, True, None, [3])]
    + [{"rate": v} for v in ("0.5", True, None)]
    + [{"sizes": v} for v in (3, "34", None)]
    + [{"deep": v} for v in (1, 0, "true")]
    + [{"name": v} for v in (1, None)],
    ids=str,
)
def test_option_value_of_another_type_is_rejected(monkeypatch, options):
    ((option, value),) = options.items()
    with pytest.raises(UsageError) as caught:
        make_registry(monkeypatch).resolve("thing", options)
    assert f"thing 'thing': {option}={value!r}" in str(caught.value)


@pytest.mark.parametrize("sizes", [["a"], [1.5], [[1]], [None]], ids=str)
def test_list_entry_of_another_type_is_rejected(monkeypatch, sizes):
    with pytest.raises(UsageError):
        make_registry(monkeypatch).resolve("thing", {"sizes": sizes})


def test_option_with_default_none_accepts_any_value(monkeypatch):
    assert make_registry(monkeypatch).resolve("unbounded", {"limit": 3}) == {"limit": 3}
    assert make_registry(monkeypatch).resolve("unbounded", {}) == {"limit": None}


@pytest.mark.parametrize(
    ("name", "option", "suggestion"), [("thing", "widht", "'width'"), ("unbounded", "x", "known: limit")]
)
def test_error_for_unknown_option_suggests_similar_names(monkeypatch, name, option, suggestion):
    with pytest.raises(UsageError, match=f"'{name}' has no option '{option}'.*{suggestion}"):
        make_registry(monkeypatch).resolve(name, {option: 1})


@pytest.mark.parametrize(
    ("option", "value", "expected_type"), [("batch_norm", "yes", "true or false"), ("width", "x", "an integer")]
)
def test_error_names_the_expected_type_of_an_option(option, value, expected_type):
    with pytest.raises(UsageError, match=f"{option}='{value}' is not {expected_type}"):
        registry.ARCHITECTURES.resolve("resnet", {option: value})
