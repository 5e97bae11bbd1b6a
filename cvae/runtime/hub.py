"""Models on the Hugging Face Hub or a mirror (HF_ENDPOINT): hf://owner/name or hf://owner/name@revision."""

import re
import sys
from pathlib import Path

from cvae.errors import CvaeError, MissingExtraError, UsageError
from cvae.run import DECODER, ENCODER

SCHEME = "hf://"

FILES = (DECODER, ENCODER)
"""Names of the files to download. Nothing else in an untrusted repository is downloaded."""


def fetch(name: str) -> Path:
    """Download the exported files of hf://owner/name[@revision], and return their folder in the Hub cache.

    Files that have not changed are not downloaded again. If the Hub can't be reached, an earlier download is used.

    Raises:
        UsageError: If the name does not have this form, or the Hub has no such repository or revision.
        MissingExtraError: If huggingface_hub is not installed.
        CvaeError: If the Hub can't be reached and there is no earlier download, if the repository has no
            decoder.onnx, or if a file is too large to load. In the last case, nothing is downloaded.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(SCHEME), re.ASCII)
    if match is None:
        raise UsageError(
            f"{name!r} is not the name of a model on the Hub; use hf://owner/name, or hf://owner/name@revision"
        )
    repository, revision = match.groups()
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
        raise UsageError(f"{name!r} is not the name of a model on the Hub: {str(error).splitlines()[0]}") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"{name!r}: {constants.ENDPOINT} has no such model, or it is private") from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{name!r}: {repository!r} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CvaeError(
            f"{name!r}: {constants.ENDPOINT} can't be reached, and the model has not been downloaded before; "
            "connect to the network and try again"
        ) from error
    except Exception as error:  # which exception the HTTP client raises depends on the huggingface_hub version
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CvaeError(f"{name!r} can't be downloaded: {reason}; try again") from error
    if not (Path(folder) / FILES[0]).is_file():
        raise CvaeError(f"{name!r} has no {FILES[0]}, so it is not a model exported by cvae")
    return Path(folder)


def _check_sizes(name: str, repository: str, revision: str | None) -> None:
    """Check the sizes of the files before they are downloaded, so that they can't fill the disk.

    Raises:
        CvaeError: If a file is too large to load.
    """
    from huggingface_hub import HfApi, constants

    from cvae.runtime.session import MAX_BYTES

    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        files = api.model_info(repository, revision=revision, files_metadata=True).siblings or ()
    except Exception:  # the download will fail too, and `fetch` reports why
        return
    for file in files:
        if file.rfilename in FILES and (file.size or 0) > MAX_BYTES:
            raise CvaeError(
                f"{name!r}: its {file.rfilename} is larger than {MAX_BYTES:,} bytes, so it is not downloaded"
            )
