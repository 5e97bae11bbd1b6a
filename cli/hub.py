"""The command `cvae hub push`."""

from typing import Annotated

import typer

from cvae.api import hub
from cvae.cli import _shared

app = typer.Typer(no_args_is_help=True, help="Share models on the Hugging Face Hub.")


@app.command()
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or the name of a run.")],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository, which is created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Commit message. [default: one that names the run]")
    ] = None,
    json: _shared.Json = False,
) -> None:
    """Upload a run: its config, weights, exported files, card and sample images, without checkpoints and data.

    Log in first, with `hf auth login`, or set HF_TOKEN.

    Example: cvae hub push runs/digits-resnet-conditional somebody/digits
    """
    result = hub.push(run, repo, private=private, message=message, note=_shared.echo)
    text = f"{result['url']}: {len(result['files'])} files\ncvae generate {result['model']}"
    _shared.report(json, result, text)
