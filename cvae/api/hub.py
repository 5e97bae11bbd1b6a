"""Functions for the Hugging Face Hub.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import re
import sys
from pathlib import Path
from typing import Any

from cvae.api.arguments import Note
from cvae.atomic import read_at_most
from cvae.errors import CvaeError, MissingExtraError, UsageError, one_line


def push(
    run: str | Path, repo: str, *, private: bool = False, message: str | None = None, note: Note = None
) -> dict[str, Any]:
    """Upload a run to the Hub, with its config, weights, exported files, card and sample images.

    Checkpoints and data are not uploaded. To update the repository after more training, export the run, and push it
    again.

    Args:
        run: Run folder, or the name of a run or a zoo model.
        repo: Repository, as "owner/name". It is created if it does not exist.
        private: Create a private repository. By default, a new repository is public, unless it belongs to an
            organization with a different default. An existing repository keeps its visibility.
        message: Commit message; None for one that names the run.
        note: Called with each message for the user.

    Returns:
        The repository as "repo", the name of the model for `cvae.load` as "model", the URL of its page as "url", and
        the paths of the files as "files".

    Raises:
        UsageError: If there is no such run, its export is outdated, the name of the repository is not valid, or no
            token is set.
        MissingExtraError: If huggingface_hub is not installed.
        CvaeError: If the run is not exported, or the Hub rejects the upload or can't be reached.
    """
    from cvae.runtime.find import find
    from cvae.runtime.hub import SCHEME

    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo.removeprefix(SCHEME), re.ASCII) is None:
        raise UsageError(f"{repo!r} is not the name of a repository on the Hub; use owner/name")
    repo, folder = repo.removeprefix(SCHEME), find(run)
    files = _collect_files(folder, repo)
    try:
        import huggingface_hub
        from huggingface_hub import CommitOperationAdd, constants
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise MissingExtraError("cvae hub push", "hub") from error
    login = "log in with: hf auth login, or set HF_TOKEN to a token with write access"
    if huggingface_hub.get_token() is None:
        raise UsageError(f"uploading to {constants.ENDPOINT} requires a token; {login}")
    if note is not None and (path := _describe_data_path(folder)) is not None:
        note(path)
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        api.create_commit(repo, operations, commit_message=message or f"Upload {folder.resolve().name}")
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is not the name of a repository on the Hub: {one_line(error)}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise CvaeError(f"{constants.ENDPOINT} does not let your token upload to {repo!r}; {login}") from error
        raise CvaeError(f"can't upload to {repo!r}: {one_line(error)}; try again") from error
    except Exception as error:  # which exception the HTTP client raises depends on the huggingface_hub version
        reason = one_line(str(error) or type(error).__name__)
        raise CvaeError(f"can't upload to {repo!r}: {reason}; try again") from error
    return {"repo": repo, "model": f"{SCHEME}{repo}", "url": f"{constants.ENDPOINT}/{repo}", "files": list(files)}


def _collect_files(run: Path, repo: str) -> dict[str, Path | bytes]:
    """Return the files to upload, keyed by their path in the repository. The card contains the name of the repository.

    Raises:
        UsageError: If the folder is not a run with weights, or its exported files belong to different weights.
        CvaeError: If the run is not exported.
    """
    from cvae.exporters.base import read_exported
    from cvae.exporters.card import ADDRESS
    from cvae.run import (
        CARD,
        CONFIG,
        CURVES,
        DECODER,
        ENCODER,
        SAMPLE_GRID,
        SAMPLES,
        WEIGHTS,
        exported_file,
        has_weights,
    )
    from cvae.runtime.hub import SCHEME
    from cvae.serialization import MAX_TEXT

    if not has_weights(run):
        raise UsageError(f"{str(run)!r} is not a run folder with {CONFIG} and {WEIGHTS}; pass a trained run")
    read_exported(run, encoder=True)  # raises an error if the files are missing, or don't belong to the weights
    card = read_at_most(exported_file(run, CARD), MAX_TEXT).decode("utf-8", errors="replace")
    images = re.findall(rf"!\[[^\]]*\]\(({SAMPLES}/[\w.-]+\.png)\)", card)
    names = [CONFIG, WEIGHTS, DECODER, ENCODER, CURVES, SAMPLE_GRID, *images]
    files: dict[str, Path | bytes] = {name: run / name for name in names if (run / name).is_file()}
    return {**files, CARD: card.replace(ADDRESS, f"{SCHEME}{repo}").encode()}


def _describe_data_path(run: Path) -> str | None:
    """Return a message if the config, which an upload may make public, contains the path of the data; else None."""
    from cvae.run import CONFIG, read_config

    training = read_config(run).training
    paths = [path for path in (training.data.partition(":")[2], training.data_dir) if path]
    return f"{CONFIG} contains the path of your data: {', '.join(map(repr, paths))}" if paths else None
