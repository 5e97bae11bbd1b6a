"""Flags as metadata of config fields, and the signatures and pages generated from them."""

import dataclasses
import inspect
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cvae.api.train_config import RESUMABLE, build_config
from cvae.cli._flags import add_flags, default_text, read_flags
from cvae.cli._reference import flag_reference
from cvae.cli.train import train
from cvae.cli.tune import tune
from cvae.config import OPTIMIZATION, SHORT_FLAGS, Config, DataConfig, TrainConfig, expand_short_flags, flag
from cvae.errors import UsageError
from cvae.flags import Interval, flag_field, flags_of
from cvae.model_zoo import models
from cvae.recipes import PARTS, read_recipe
from cvae.serialization import from_dict, to_dict
from cvae.tuning.search_space import MACHINE_FLAGS, NOT_SEARCHABLE, Range, make_space, parse_search


@dataclass(frozen=True, kw_only=True)
class LargerConfig(TrainConfig):
    """Training config with two additional fields."""

    momentum: float = flag_field(
        0.9, OPTIMIZATION, "Momentum of the optimizer.", interval=Interval(minimum=0, below=1), aliases=("inertia",)
    )
    frozen: tuple[str, ...] | None = flag_field(
        None,
        OPTIMIZATION,
        "Network to freeze.",
        name="freeze-network",
        automatic="none",
        choices=("encoder", "decoder"),
    )


def command_line(config: type) -> typer.Typer:
    """Return a program with one command that prints the values of its flags."""
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @add_flags(config)
    def run(set_: list[str] = typer.Option([], "--set"), **flags: object) -> None:  # noqa: B008
        print(json.dumps(read_flags(config, flags, set_)))

    return app


# -- intervals and checks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "text"),
    [
        (Interval(minimum=1), [1, 2**70, 1.0], [0, 0.99, -1], "at least 1"),
        (Interval(above=0, maximum=1), [1e-300, 1], [0, 1.001], "more than 0 and at most 1"),
        (Interval(minimum=0, below=1), [0, 0.999], [1, -0.1], "at least 0 and less than 1"),
        (Interval(), [-(10**400)], [], ""),
    ],
)
def test_interval_contains_the_finite_numbers_between_its_bounds(interval, inside, outside, text):
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in [*outside, math.nan, math.inf, -math.inf, "1", None])
    assert str(interval) == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"momentum": 1.0}, ["momentum 1.0", "at least 0 and less than 1"]),
        ({"momentum": math.nan}, ["momentum nan"]),
        ({"frozen": ("encoder", "decode")}, ["frozen 'decode'", "did you mean 'decoder'"]),
        ({"lr": 0.0}, ["lr 0.0", "more than 0"]),
        ({"schedule": "cosin"}, ["schedule 'cosin'", "'cosine'"]),
    ],
)
def test_config_checks_its_values_against_the_metadata_of_its_fields(values, words):
    with pytest.raises(UsageError) as caught:
        LargerConfig(**values)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("name", flags_of(TrainConfig))
def test_default_of_each_flag_is_valid_and_its_help_is_a_sentence(name):
    spec = flags_of(TrainConfig)[name]
    spec.check(name, getattr(TrainConfig(), name))
    assert re.fullmatch(r"[A-Z].*\.", spec.help), spec.help


# -- the command line --------------------------------------------------------------------------------------------------


def test_new_field_becomes_a_flag_without_other_changes():
    app = command_line(LargerConfig)
    arguments = ["--momentum", "0.5", "--freeze-network", "encoder", "--freeze-network", "decoder", "--set", "arch.x=1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    expected = {"momentum": 0.5, "frozen": ["encoder", "decoder"], "options": {"arch": {"x": 1}}}
    assert json.loads(result.output) == expected
    assert from_dict(LargerConfig, expected).frozen == ("encoder", "decoder")
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "--momentum X Momentum of the optimizer. [default: 0.9]" in text
    assert "--freeze-network encoder|decoder Network to freeze. May be repeated. [default: none]" in text
    reference = flag_reference(LargerConfig)
    assert "| `--momentum X` | Momentum of the optimizer. | at least 0 and less than 1 | 0.9 |" in reference


def test_former_spelling_of_a_flag_works_and_is_hidden():
    app = command_line(LargerConfig)
    result = CliRunner().invoke(app, ["--inertia", "0.5", "--without", "a", "--exclude-class", "b"])
    assert json.loads(result.output) == {"momentum": 0.5, "without": ["b", "a"], "options": {}}
    text = CliRunner().invoke(app, ["--help"]).output
    assert "--exclude-class NAME" in text and "--without" not in text and "--inertia" not in text


@pytest.mark.parametrize("command", ["train", "tune", "generate", "export", "plot losses", "detect score"])
def test_help_never_shows_a_type_as_metavar(cvae, command):
    text = cvae(*command.split(), "--help").out
    assert "--json" in text and not re.search(r"<\w+(\[\w+\])?>", text)


def test_tune_has_all_flags_of_train():
    flags = set(inspect.signature(train).parameters)
    assert flags - {"resume", "export"} <= set(inspect.signature(tune).parameters)


def test_flag_that_defaults_to_none_describes_its_default():
    for name, spec in flags_of(TrainConfig).items():
        if getattr(TrainConfig(), name) is None and name != "limit":
            assert spec.automatic and default_text(TrainConfig, name) == spec.automatic


def test_lists_of_flags_are_derived_from_the_fields():
    assert set(RESUMABLE) == {
        "epochs", "minutes", "patience", "device", "on_nan", "compile", "trackers", "data", "data_dir",
    }  # fmt: skip
    assert set(MACHINE_FLAGS) == {"data_dir", "device", "compile", "trackers"}
    assert set(NOT_SEARCHABLE) - set(MACHINE_FLAGS) == {
        "data", "size", "condition", "ignore", "path_column", "binarize", "validation", "without",
        "likelihood", "losses", "seed", "minutes", "patience",
    }  # fmt: skip
    assert PARTS == ("arch", "conditioning", "likelihood", "prior", "objective", "optimizer")


def test_reference_has_a_row_for_each_flag():
    reference = flag_reference()
    for name, spec in {**flags_of(TrainConfig), **SHORT_FLAGS}.items():
        rows = [line for line in reference.splitlines() if re.match(rf"\| `{spec.spelling(name)}[ `]", line)]
        assert len(rows) == 1 and spec.help.replace("|", "\\|") in rows[0], name
        assert len(re.findall(r"(?<!\\)\|", rows[0])) == 5
    assert "`--set objective.beta=X`" in reference and "--without" not in reference


# -- short flags -------------------------------------------------------------------------------------------------------


def test_short_flag_sets_an_option():
    result = CliRunner().invoke(command_line(TrainConfig), ["--beta", "4", "--set", "objective.beta=2"])
    assert json.loads(result.output) == {"options": {"objective": {"beta": 4.0}}}
    assert flag("free_bits") == "--free-bits"


def test_recipe_accepts_names_of_flags_and_short_flags(tmp_path):
    recipe = tmp_path / "old.toml"
    recipe.write_text('beta = 4\nfree-bits = 0.5\nexclude-class = ["3"]\n[options.objective]\nbeta = 2\n')
    expected = {"without": ["3"], "options": {"objective": {"beta": 4, "free_bits": 0.5}}}
    assert read_recipe(recipe) == expected
    recipe.write_text('without = ["3"]\n')
    assert read_recipe(recipe) == {"without": ["3"]}
    config = build_config(str(recipe), {"objective": "iwae", "options": {}})
    assert config.without == ("3",)


def test_objective_options_of_a_recipe_are_dropped_for_another_objective(tmp_path):
    recipe = tmp_path / "old.toml"
    recipe.write_text("beta = 4\n")
    assert build_config(str(recipe), {"options": {}}).options == {"objective": {"beta": 4}}
    assert build_config(str(recipe), {"objective": "iwae", "options": {}}).options == {}


@pytest.mark.parametrize("old", [{"beta": None, "free_bits": None}, {"beta": 3.0}, {}], ids=str)
def test_config_of_older_version_can_be_read(tmp_path, old):
    """Older versions wrote the keys `beta` and `free_bits` to configs. In the config of a run, both are null."""
    path = tmp_path / "config.json"
    data = json.loads((models()["mnist-resnet-conditional"] / "config.json").read_text())
    assert data["format"] == 1
    for name in SHORT_FLAGS:
        data["training"].pop(name, None)
    data["training"] |= old
    path.write_text(json.dumps(data))
    objective = Config.read(path).training.options["objective"]
    values = {key: value for key, value in old.items() if value is not None}
    assert objective == {"antithetic": False, **data["training"]["options"]["objective"], **values}
    assert read_recipe(path)["options"]["objective"] == objective
    assert not SHORT_FLAGS.keys() & json.loads(Config.read(path).to_json())["training"].keys()


@pytest.mark.parametrize("options", [None, [], {"objective": 3}], ids=str)
def test_invalid_options_of_older_config_are_not_converted(options):
    assert expand_short_flags({"options": options, "beta": 2}) == {"options": options}


def test_train_config_error_shows_how_to_pass_beta_as_an_option():
    with pytest.raises(UsageError, match=re.escape("options={'objective': {'beta': 4}}")):
        TrainConfig(beta=4)
    with pytest.raises(UsageError, match="free_bits"):
        dataclasses.replace(TrainConfig(), free_bits=1.0)


def test_search_maps_short_flag_to_its_option():
    assert make_space(parse_search(["beta=1..4", "free-bits=0,1"])) == {
        "objective.beta": Range(1, 4),
        "objective.free_bits": (0, 1),
    }


# -- data --------------------------------------------------------------------------------------------------------------


def test_train_config_returns_its_data_config():
    config = TrainConfig(data="folder:x", size="8x16", without=("a",), seed=3, lr=0.1)
    data = config.data_config
    assert type(data) is DataConfig and data == DataConfig(data="folder:x", size="8x16", without=("a",), seed=3)
    assert data.sides == (8, 16)
    assert to_dict(data).items() <= to_dict(config).items()  # the keys of config.json are flat
    with pytest.raises(UsageError, match="validation 1 is out of range"):
        DataConfig(validation=1)


def test_data_config_is_found_for_runs_and_exported_files():
    from cvae.evaluation.evaluate import find_data_config
    from cvae.run import read_config

    folder = models()["mnist-resnet-flow"]
    assert find_data_config(folder, "").confirmed == read_config(folder).training.data_config
    assert find_data_config(Path("decoder.onnx"), "mnist").confirmed == DataConfig(data="mnist", validation=0.0)
