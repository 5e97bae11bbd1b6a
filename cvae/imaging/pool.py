"""Pool of processes that decode image files (`cvae.imaging.worker`), so that no file can end or stall the program.

The processes are not those of `multiprocessing`, which import the program of the user again and exchange pickles.
"""

import math
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from threading import Event, Lock, Thread
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from cvae.errors import CvaeError, one_line
from cvae.imaging import worker
from cvae.imaging.formats import explain, is_transient
from cvae.imaging.reader import DecodedImage, ReadError, decode_file, decode_image
from cvae.imaging.rgb import DEPTHS
from cvae.imaging.worker import Job

Source = str | Path | Image.Image
"""Image file or PIL image."""

CHUNK = 4
"""Number of images per request. Larger requests hardly save time, and distribute a few large images unevenly."""

MAX_PROCESSES = 32
"""Maximum number of processes. Each takes about 35 MB of memory."""

MAX_WAITING, MAX_WAITING_BYTES = 1024, 2**26
"""Maximum number of decoded images that wait to be consumed, and their maximum total size in bytes."""

START_SECONDS = 60
"""Maximum time in which a process starts. It takes a fifth of a second."""

LARGE_IMAGE_LOCK = Lock()
"""Lock that a thread holds while a large image is decoded."""

PIL_LOCK = Lock()
"""Lock for copying a PIL image: a list may contain the same image twice, and copying may load its file."""

COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # Ctrl-C is for the program itself
    "from cvae.imaging.worker import main; main()"
)


class ReadFailure(NamedTuple):
    """Failure to read an image.

    Attributes:
        reason: why the image can't be read.
        transient: whether another attempt may succeed, for example after an I/O or memory error, or once a missing
            package is installed.
    """

    reason: str
    transient: bool


class DecoderPool:
    """Pool of processes that decode image files, one per CPU. It is a context manager.

    If a file makes its process crash, or exceeds the limits on memory and time, the file is reported as unreadable, and
    another process is started. PIL images of the program are decoded in threads of the program, and so are files if it
    can't start processes. Use it within `cvae.imaging.reader.ignore_warnings` then, which is not thread-safe.
    """

    def __init__(self) -> None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._size = min(MAX_PROCESSES, count)
        self._threads = ThreadPoolExecutor(self._size)
        self._lock = Lock()  # for the next three
        self._processes: list[_Process] = []
        self._idle: list[_Process] = []
        self._closed = Event()

    @staticmethod
    def can_start_processes() -> bool:
        """Return whether `sys.executable` is Python. In an app of PyInstaller, it is the app."""
        return bool(sys.executable) and not getattr(sys, "frozen", False)

    def __enter__(self) -> Self:
        Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed.set()
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def decode(self, sources: Iterable[Source], job: Job) -> Iterator[DecodedImage | ReadFailure]:
        """Decode files or PIL images, and yield the images or failures in the same order.

        The sources are consumed a little ahead of the results.

        Raises:
            CvaeError: If a process can't be started.
        """
        iterator = iter(sources)
        pending: deque[Future[list[DecodedImage | ReadFailure]]] = deque()
        max_images = min(MAX_WAITING, MAX_WAITING_BYTES // math.prod(job.image_shape))
        size = max(1, min(CHUNK, max_images // (2 * self._size)))
        max_pending = max(2 * self._size, max_images // size)
        while chunk := list(islice(iterator, size)):
            pending.append(self._threads.submit(self._decode_chunk, chunk, job))
            if len(pending) > max_pending:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def _decode_chunk(self, sources: Sequence[Source], job: Job) -> list[DecodedImage | ReadFailure]:
        if not self.can_start_processes():
            return [decode_here(source, job) for source in sources]
        paths = [str(source) for source in sources if not isinstance(source, Image.Image)]
        files = iter(self._decode_files(paths, job))
        return [decode_here(source, job) if isinstance(source, Image.Image) else next(files) for source in sources]

    def _decode_files(self, paths: list[str], job: Job) -> list[DecodedImage | ReadFailure]:
        results: list[DecodedImage | ReadFailure] = []
        for path, result in zip(paths, self._request(paths, job), strict=True):
            if result is None:  # a large image
                with LARGE_IMAGE_LOCK:
                    (result,) = self._request([path], job._replace(large=True))
                assert result is not None
            results.append(result)
        return results

    def _request(self, paths: list[str], job: Job) -> list[DecodedImage | ReadFailure | None]:
        """Return the reply to each file, with None for large images that the job does not permit."""
        results: list[DecodedImage | ReadFailure | None] = []
        while len(results) < len(paths):
            process = self._take_process()
            results += process.decode(paths[len(results) :], job)
            with self._lock:
                if process.is_running:
                    self._idle.append(process)
                else:
                    self._processes.remove(process)
        return results

    def _take_process(self) -> "_Process":
        with self._lock:
            if self._closed.is_set():
                raise CvaeError("the pool is closed")  # nobody waits for this chunk any longer
            while self._idle:
                process = self._idle.pop()
                if process.is_alive():
                    return process
                process.close()
                self._processes.remove(process)
            self._processes.append(_Process())
            return self._processes[-1]

    def _watch(self) -> None:
        """Kill processes that take too long. A clock would also count the time for which Ctrl-Z stops the program."""
        while not self._closed.wait(1):
            with self._lock:
                for process in self._processes:
                    process.seconds += 1
                    if process.seconds > process.limit:
                        process.kill()


def decode_here(source: Source, job: Job) -> DecodedImage | ReadFailure:
    """Decode a file or a PIL image in this process, within `cvae.imaging.reader.ignore_warnings`."""

    def guard(size: int) -> AbstractContextManager[object]:
        return LARGE_IMAGE_LOCK if size > worker.LARGE_BYTES else nullcontext()

    try:
        if not isinstance(source, Image.Image):
            return decode_file(source, job.image_shape, job.own, job.min_bits, guard)
        with PIL_LOCK:
            image = source.copy()
        with image:
            return decode_image(image, job.image_shape, job.own, job.min_bits, guard)
    except ReadError as error:
        return ReadFailure(error.reason, error.transient)
    except Exception as error:  # for a damaged image Pillow raises anything from OSError to SyntaxError
        return ReadFailure(explain(error), is_transient(error))


class _Process:
    """Process of a pool.

    Attributes:
        is_running: whether it can decode more files.
        seconds: time since it has begun to decode a file.
        limit: time after which it is killed.
    """

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(path) or "." for path in sys.path),
            # Without these, numpy starts threads for matrix products, which take memory.
            **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        try:
            # -P: a module in the current folder must not replace one of Python
            command = [sys.executable, "-P", "-c", COMMAND]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=2**16
            )
        except OSError as error:
            raise CvaeError(f"can't start {sys.executable!r} to decode images: {error.strerror}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._is_ready = False
        self.is_running, self.seconds, self.limit = True, 0, math.inf

    def decode(self, paths: Sequence[str], job: Job) -> list[DecodedImage | ReadFailure | None]:
        """Decode files until one of them ends this process.

        Raises:
            CvaeError: If the process does not start.
        """
        results: list[DecodedImage | ReadFailure | None] = []
        try:
            self._wait_until_ready()
            self._requests.write(worker.encode_request(list(paths), job))
            self._requests.flush()
            for _ in paths:
                self.seconds, self.limit = 0, job.seconds
                results.append(self._receive(job))
            self.limit = math.inf
        except (EOFError, OSError):
            results.append(ReadFailure(self._end(job), transient=True))
        return results

    def is_alive(self) -> bool:
        """Return whether the process still runs. The system may kill a process that is idle."""
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Free the resources of the process after its end."""
        self.is_running = False
        with suppress(OSError):  # a request that nobody has read
            self._requests.close()
        self._replies.close()
        self._process.wait()

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        self.seconds, self.limit = 0, START_SECONDS
        with suppress(EOFError):
            self._is_ready = self._read(len(worker.READY)) == worker.READY
        if not self._is_ready:
            self.kill()
            self.close()
            raise CvaeError(
                f"{sys.executable!r} did not start to decode images (exit status {self._process.returncode}); if it is "
                "not Python, set sys.executable to the path of Python"
            )

    def _receive(self, job: Job) -> DecodedImage | ReadFailure | None:
        """Read a reply, which is checked, because a file may have taken over the process.

        Raises:
            EOFError: If the process has ended, or the reply is not valid.
        """
        kind, width, height, is_coloured, bits, peak = worker.HEADER.unpack(self._read(worker.HEADER.size))
        if kind == worker.LARGE and not job.large:
            return None
        if kind in (worker.FAILURE, worker.TRANSIENT_FAILURE):
            (length,) = worker.REASON_LENGTH.unpack(self._read(worker.REASON_LENGTH.size))
            reason = self._read(length).decode(errors="replace")
            return ReadFailure(one_line(reason), kind == worker.TRANSIENT_FAILURE)
        if kind != worker.IMAGE or bits not in (-1, *DEPTHS) or not -1 <= peak < 2 ** DEPTHS[-1]:
            raise EOFError
        pixels = np.frombuffer(self._read(math.prod(job.image_shape)), np.uint8).reshape(job.image_shape)
        return DecodedImage(
            pixels, (width, height), is_coloured, None if bits == -1 else bits, None if peak == -1 else peak
        )

    def _read(self, count: int) -> bytes:
        data = self._replies.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def _end(self, job: Job) -> str:
        """End the process, and return the reason why it could not decode a file."""
        self.kill()
        self.close()
        code = self._process.returncode
        if self.seconds > self.limit or code == -getattr(signal, "SIGXCPU", 0):
            return f"decoding it takes more than {job.seconds} seconds"
        return f"its decoder crashed ({signal.strsignal(-code) if code < 0 else f'exit status {code}'})"
