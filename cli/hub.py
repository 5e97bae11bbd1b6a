"""The command `cvae hub push`."""

from typing import Annotated

import typer

from cvae.api import hub
from cvae.cli import _completion, _shared
from cvae.cli._help import App

app = App(help="Share models on the Hugging Face Hub.")


@app.command()
def push(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, or the name of a run.", autocompletion=_completion.runs)
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository. It is created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Commit message. [default: one that names the run]")
    ] = None,
    json: _shared.Json = False,
) -> None:
    """Upload a run to a repository.

    The upload contains the config, the weights, the exported files, the card and the sample images, but neither
    checkpoints nor data. First log in with `hf auth login`, or set HF_TOKEN.

    Examples:
      cvae hub push runs/mine somebody/digits
      cvae hub push runs/mine somebody/digits --private --message "20 epochs"
    """
    result = hub.push(run, repo, private=private, message=message, note=_shared.echo)
    text = f"{result['url']}: {len(result['files'])} files\ncvae generate {result['model']}"
    _shared.report(json, result, text)
