"""Models on the Hugging Face Hub or a mirror (HF_ENDPOINT): hf://owner/name or hf://owner/name@revision."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cvae.errors import CvaeError, MissingExtraError, UsageError, one_line
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
    # The revision becomes part of a path in the Hub cache, so it must not contain "..". No branch begins with a dot.
    if match is None or re.search(r"(^|/)(\.|/|$)", match[2] or "main"):
        raise UsageError(
            f"{name!r} is not the name of a model on the Hub; use hf://owner/name, or hf://owner/name@revision"
        )
    repository, revision = match.groups()
    try:
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise MissingExtraError(repr(name), "hub") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        _check_sizes(name, repository, revision)
        with _check_responses(name):
            return _download(name, repository, revision)
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


def _download(name: str, repository: str, revision: str | None) -> Path:
    """Download the files of a revision, unless they are in the cache, and return their folder."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        decoder = Path(huggingface_hub.hf_hub_download(repository, DECODER, revision=revision))
    except errors.LocalEntryNotFoundError:  # a subclass of the next one: the Hub can't be reached
        raise
    except errors.EntryNotFoundError as error:
        raise CvaeError(f"{name!r} has no {DECODER}, so it is not a model exported by cvae") from error
    with suppress(errors.EntryNotFoundError):  # a decoder suffices to generate images
        # The name of the folder is the commit.
        huggingface_hub.hf_hub_download(repository, ENCODER, revision=decoder.parent.name)
    return decoder.parent


@contextmanager
def _check_responses(name: str) -> Iterator[None]:
    """Check the responses of the Hub during the block, before huggingface_hub uses their headers or writes their body.

    Raises:
        CvaeError: If the hash of a commit or file could lead outside the cache, or a file has another size than stated.
    """
    from huggingface_hub.utils import get_session

    size: int | None = None

    def check(response: Any, *_: Any, **__: Any) -> None:
        nonlocal size
        headers = response.headers
        if (commit := headers.get("X-Repo-Commit")) is not None:
            if not re.fullmatch(r"[0-9a-f]{40}", commit):
                raise CvaeError(f"{name!r}: the Hub sent {one_line(repr(commit), 80)} instead of the hash of a commit")
            etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
            if not re.fullmatch(r'(W/)?"?[\w-]*"?', etag, re.ASCII):
                raise CvaeError(f"{name!r}: the Hub sent {one_line(repr(etag), 80)} instead of the hash of a file")
        is_head = response.request.method == "HEAD"
        length = (is_head and headers.get("X-Linked-Size")) or headers.get("Content-Length") or ""
        number = int(length) if length.isdecimal() and len(length) < 20 else None
        if is_head:
            size = number if number is not None else size
            return
        sends_file = "/api/" not in str(response.url) and response.status_code in (200, 206)
        if sends_file and (size is None or number is None or number > size):
            raise CvaeError(f"{name!r}: the Hub sends {length or 'an unknown number of'} bytes instead of {size}")

    session: Any = get_session()
    attribute = "event_hooks" if hasattr(session, "event_hooks") else "hooks"  # versions before 1.0 use requests
    hooks = getattr(session, attribute)
    setattr(session, attribute, {**hooks, "response": [*hooks["response"], check]})
    try:
        yield
    finally:
        setattr(session, attribute, hooks)


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
