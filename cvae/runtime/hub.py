"""Models on the Hugging Face hub, or on a mirror of it (HF_ENDPOINT): hf://owner/name, or hf://owner/name@revision."""

import re
import sys
from pathlib import Path

from cvae.errors import CvaeError, MissingExtraError, UsageError
from cvae.run import DECODER, ENCODER

SCHEME = "hf://"

FILES = (DECODER, ENCODER)
"""All that is downloaded: no weights, no other code or data of a stranger's repository."""


def fetch(name: str) -> Path:
    """The folder, in the hub's own cache, with the exported files of hf://owner/name[@revision].

    What has not changed since an earlier download is not downloaded again; out of reach of the hub an earlier
    download is used as it is.

    Raises:
        UsageError: the name is not of this form, or the hub knows no such repository or revision.
        MissingExtraError: huggingface_hub is not installed.
        CvaeError: the hub can't be reached and there is no earlier download, or the repository has no decoder.onnx, or
            a file too large to be loaded; nothing is downloaded then.
    """
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(SCHEME), re.ASCII)
    if found is None:
        raise UsageError(f"{name!r} names no model of the hub; write hf://owner/name, or hf://owner/name@revision")
    repository, revision = found.groups()
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise MissingExtraError(repr(name), "hub") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        _check_sizes(name, repository, revision)
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES))
    except CvaeError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(f"{name!r} names no model of the hub: {str(error).splitlines()[0]}") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"{name!r}: {constants.ENDPOINT} has no such model, or keeps it private") from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{name!r}: {repository!r} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CvaeError(
            f"{name!r}: {constants.ENDPOINT} can't be reached, and nothing is left of an earlier download; "
            "try again when there is a network"
        ) from error
    except Exception as error:  # a connection cut off is an error of the HTTP client, which changes with the version
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CvaeError(f"{name!r} can't be downloaded: {reason}; try again") from error
    if not (Path(folder) / FILES[0]).is_file():
        raise CvaeError(f"{name!r} has no {FILES[0]}: it holds no model exported by cvae")
    return Path(folder)


def _check_sizes(name: str, repository: str, revision: str | None) -> None:
    """Before the download, which is to fill nobody's disk; that says too what is wrong when the hub gives no answer.

    Raises:
        CvaeError: a file is larger than what is loaded.
    """
    from huggingface_hub import HfApi, constants

    from cvae.runtime.session import MAX_BYTES

    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        files = api.model_info(repository, revision=revision, files_metadata=True).siblings or ()
    except Exception:  # no network, no such model: as above
        return
    for file in files:
        if file.rfilename in FILES and (file.size or 0) > MAX_BYTES:
            raise CvaeError(f"{name!r}: its {file.rfilename} is larger than {MAX_BYTES:,} bytes; it is not downloaded")
