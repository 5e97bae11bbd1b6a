"""The option -m, which chooses the model of a command."""

from pathlib import Path

import pytest

from cvae.cli import make_app

COMMANDS = [
    "generate", "interpolate", "evaluate", "info", "export onnx", "export web", "detect fit", "plot latent",
    "plot traverse", "plot reconstructions", "plot grid", "plot losses", "plot progress",
]  # fmt: skip
WITH_IMAGES = ["reconstruct a.png", "restyle a.png", "detect score a.png"]


@pytest.mark.parametrize("command", [*COMMANDS, *WITH_IMAGES])
def test_option_chooses_the_model(assert_fails, in_tmp, command):
    Path("a.png").touch()  # commands look for image files before the model
    assert_fails(2, ["'nowhere'"], *command.split(), "-m", "nowhere")
    assert_fails(2, ["'nowhere'"], *command.split(), "--model", "nowhere")


@pytest.mark.parametrize("command", COMMANDS)
def test_argument_and_option_must_agree(assert_fails, command):
    assert_fails(2, ["'nowhere' and --model 'elsewhere'", "give one"], *command.split(), "nowhere", "-m", "elsewhere")
    assert_fails(2, ["there is no run", "'nowhere'"], *command.split(), "nowhere", "-m", "nowhere")


def test_every_command_with_a_device_has_the_model_option():
    app = make_app()
    for group in (app, *(group.typer_instance for group in app.registered_groups)):
        for command in group.registered_commands:
            parameters = command.callback.__annotations__
            if "device" in parameters and command.callback.__name__ not in ("train", "tune"):
                is_model = "model_option" in parameters or "images" in parameters
                assert "model" in parameters and is_model, command.callback.__name__


def test_option_works_like_the_argument(cvae, trained):
    for arguments in ([trained["plain"]], ["-m", trained["plain"]], [trained["plain"], "-m", trained["plain"]]):
        result = cvae("generate", *arguments, "--seed", 1, "--out", f"{len(list(Path().iterdir()))}.png", "--json")
        assert result.err == "" and result.json["model"] == "plain"
    first, *others = [path.read_bytes() for path in Path().iterdir()]
    assert len(others) == 2 and all(other == first for other in others)
    assert cvae("plot", "losses", "-m", trained["plain"], "--json").json["epochs"] == {"plain": 20}
