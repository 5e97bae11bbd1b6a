"""onnxruntime sessions of exported files. A file is read once and scanned; batches are run in chunks."""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import onnxruntime as ort

from cvae.atomic import read_at_most
from cvae.errors import CvaeError, UsageError, gpu_install_commands, one_line
from cvae.run import ENCODER, exported_file
from cvae.runtime.scan import Cost, protobuf, remove_weights, scan, signature
from cvae.spec import KEY, Spec

MAX_BYTES = 512 * 2**20
"""Maximum size of a file; a larger one is rejected before it is read."""

LARGE_BYTES = 2**26
"""Size above which onnxruntime first loads a file without its weights.

onnxruntime copies the weights twice before it finds an error in the graph.
"""

CHUNK = 64
"""Number of images per run. Chunks are faster than one large batch, limit memory use, and give bit-identical results
for any batch size."""

MAX_ELEMENTS = 2**26
"""Maximum number of values in all tensors of a run (256 MB). A costly model gets fewer images per run."""

MAX_CPU_ELEMENTS = 2**23
"""The same on a CPU (32 MB), whose caches can't hold more: with 2 million values per image, a decoder of 64x96 images
takes 4.0 ms per image in runs of 4 images, 4.5 ms in runs of 32, and 5.6 ms in runs of 64 (one core)."""

MAX_TIME_LIMIT = 86_400
"""Maximum time limit in seconds: a day."""

BATCHES = (1, 4, 16, CHUNK)
"""Batch sizes on a GPU. Each new size starts a search for convolution algorithms, so batches are padded to one of
these sizes."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""onnxruntime provider of each device."""


PROCESSED = (
    "if another program has processed the file (shape inference, optimization, quantization, conversion to float16, "
    "weights in another file), use the file that cvae export onnx has written"
)
"""Hint for a file that the scan rejects."""


def read_spec(path: Path) -> tuple[Spec, bytes]:
    """Return the spec and the content of an exported file, without onnxruntime.

    Raises:
        CvaeError: If the file can't be read, is too large, or was not exported by cvae.
    """
    data = read_at_most(path, MAX_BYTES)
    text = protobuf.read_metadata(data, str(path)).get(KEY)
    if text is None:
        raise CvaeError(f"{str(path)!r} was not exported by cvae: its metadata has no {KEY!r} entry")
    return Spec.from_json(text, str(path)), data


def read_and_scan(path: Path, role: str) -> tuple[Spec, bytes, Cost]:
    """Read and scan an exported file.

    Args:
        path: the file.
        role: required role of the file, "decoder" or "encoder".

    Returns:
        The spec, the content, and the cost of one image.

    Raises:
        UsageError: If the file has the other role.
        CvaeError: If `read_spec` or `scan` rejects the file.
    """
    spec, data = read_spec(path)
    if spec.role != role:
        raise UsageError(f"{str(path)!r} contains the {spec.role}, but the {role} is needed; use {role}.onnx")
    try:
        return spec, data, scan(data, spec, str(path))
    except CvaeError as error:
        raise CvaeError(f"{error}; {PROCESSED}") from error


def max_batch(cost: Cost, *, on_cpu: bool = True) -> int:
    """Return the largest number of images per run, of at most `CHUNK`, whose tensors fit the limit of the device."""
    limit = MAX_CPU_ELEMENTS if on_cpu else MAX_ELEMENTS
    return max(1, min(CHUNK, limit // max(1, cost.elements)))


class Session:
    """onnxruntime session of an exported file. Threads can share it.

    `cvae.runtime.scan` checks the file before onnxruntime loads it.

    Args:
        path: the file.
        role: required role of the file, "decoder" or "encoder".
        device: "cpu", "cuda", "auto" (CUDA if it starts, otherwise the CPU), or the name of an onnxruntime provider.
        threads: number of threads of a run; None for the default of onnxruntime, one per core.
        spinning: whether threads keep spinning after a run, while they wait for the next one. This is faster in a
            tight loop, but keeps the CPU busy.
        arena: whether to keep freed memory for the next run. This is not faster here, and the memory stays resident.
        time_limit: maximum number of seconds for loading the file, and for each call of `run`; None for no limit.

    Raises:
        UsageError: If the file has the other role, this onnxruntime does not support the device, or `time_limit` is
            not positive.
        CvaeError: If the file is rejected, or onnxruntime can't load it or start the device.
    """

    def __init__(
        self,
        path: Path,
        role: str,
        *,
        device: str = "cpu",
        threads: int | None = None,
        spinning: bool,
        arena: bool,
        time_limit: float | None = None,
    ) -> None:
        if time_limit is not None and not 0 < time_limit <= MAX_TIME_LIMIT:
            raise UsageError(f"time_limit is {time_limit}: it must be above 0, and at most {MAX_TIME_LIMIT:,} seconds")
        self._time_limit = time_limit
        self.spec, data, cost = read_and_scan(path, role)
        self._source = str(path)
        self._outputs = {name: tensor.shape[1:] for name, tensor in signature(self.spec)[1].items()}
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised, so they need not be logged
        options.add_session_config_entry("session.load_model_format", "ONNX")  # load only the format that was scanned
        options.enable_cpu_mem_arena = arena
        options.intra_op_num_threads = threads or 0
        # Threads that spin while they wait for each other make a run 1.2 times as fast. Unless `spinning` is set, they
        # stop when the run ends.
        options.add_session_config_entry("session.force_spinning_stop", str(int(not spinning)))
        if len(data) > LARGE_BYTES:
            self._start(remove_weights(data), _without_optimization(), PROVIDERS["cpu"])
        provider, *fallbacks = _find_providers(device)
        try:
            self._session, self.provider = self._start(data, options, provider), provider
        except CvaeError:
            if not fallbacks:
                raise
            self._session, self.provider = self._start(data, options, fallbacks[0]), fallbacks[0]
        on_cpu = self.provider == PROVIDERS["cpu"]
        self._max_batch = max_batch(cost, on_cpu=on_cpu)
        self._batches = () if on_cpu else BATCHES

    def _start(self, data: bytes, options: ort.SessionOptions, provider: str) -> ort.InferenceSession:
        if provider != PROVIDERS["cpu"]:
            _prepare_gpu()
        cancel = getattr(options, "set_load_cancellation_flag", lambda cancelled: None)  # onnxruntime 1.21 and later
        try:
            with self._limit_time(cancel):
                session = ort.InferenceSession(data, options, providers=[provider], enable_fallback=False)
        except CvaeError:  # the time limit
            raise
        except Exception as error:  # onnxruntime raises a dozen types without a common base class
            raise CvaeError(f"onnxruntime can't load {self._source!r} on {provider}: {one_line(error)}") from error
        if provider not in session.get_providers():
            fix = _CUDA_START_FIX if provider == PROVIDERS["cuda"] else _PROVIDER_START_FIX
            raise CvaeError(f"onnxruntime could not start {provider} and would run on the CPU; {fix}")
        return session

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run a batch of any size, in chunks.

        Args:
            inputs: the inputs by name, each with the batch along the first axis.

        Returns:
            The outputs, in the order of `cvae.runtime.scan.signature`.

        Raises:
            CvaeError: If onnxruntime fails, or an output is not finite or does not have the shape in the spec.
        """
        options = ort.RunOptions()
        with self._limit_time(lambda stop: setattr(options, "terminate", stop)):
            return self._run_chunks(inputs, options)

    @contextmanager
    def _limit_time(self, stop: Callable[[bool], None]) -> Iterator[None]:
        """Call `stop` from another thread when the time limit is reached, and raise an error then."""
        if self._time_limit is None:
            yield
            return
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            stop(True)

        timer = Timer(self._time_limit, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception:
            if not expired:
                raise
        finally:
            timer.cancel()
        if expired:
            raise CvaeError(
                f"{self._source!r} takes longer than the time limit of {self._time_limit:g} s; allow more, or make "
                "fewer images in a call"
            )

    def _run_chunks(self, inputs: dict[str, np.ndarray], options: ort.RunOptions) -> list[np.ndarray]:
        count = len(next(iter(inputs.values())))
        step = self._max_batch
        if count <= step:
            return self._run(inputs, options)
        outputs: list[np.ndarray] = []
        for start in range(0, count, step):
            chunk = self._run({name: value[start : start + step] for name, value in inputs.items()}, options)
            outputs = outputs or [np.empty((count, *values.shape[1:]), values.dtype) for values in chunk]
            for output, values in zip(outputs, chunk, strict=True):
                output[start : start + step] = values
        return outputs

    def _run(self, inputs: dict[str, np.ndarray], options: ort.RunOptions) -> list[np.ndarray]:
        count, padded = len(next(iter(inputs.values()))), inputs
        padding = next((size - count for size in self._batches if count <= size <= self._max_batch), 0)
        if padding:  # pad with copies of the first image
            padded = {name: np.concatenate([value, value[:1].repeat(padding, 0)]) for name, value in inputs.items()}
        try:
            outputs = self._session.run(list(self._outputs), padded, options)
        except Exception as error:  # onnxruntime raises a dozen types without a common base class
            raise CvaeError(f"onnxruntime can't run {self._source!r}: {one_line(error)}") from error
        for (name, shape), output in zip(self._outputs.items(), outputs, strict=True):
            if output.shape != (count + padding, *shape) or output.dtype != np.float32:
                raise CvaeError(
                    f"{self._source!r} contradicts its own spec: its output {name!r} is {output.dtype} {output.shape}, "
                    f"not float32 {(count + padding, *shape)}; use a file that cvae export onnx wrote"
                )
        # A sum is the fastest way to find a value that is not finite.
        if not all(math.isfinite(np.add.reduce(output, axis=None)) for output in outputs):
            raise CvaeError(
                f"{self._source!r} returns values that are not finite: its weights are damaged, or the input is far "
                "outside the training data"
            )
        return [output[:count] for output in outputs] if padding else outputs


def _without_optimization() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _prepare_gpu() -> None:
    """Load the CUDA and cuDNN libraries that pip has installed: onnxruntime does not look for them itself.

    If a library is missing, onnxruntime prints it; the error for a provider that does not start says what is needed.
    """
    ort.set_default_logger_severity(4)
    with redirect_stdout(io.StringIO()):
        getattr(ort, "preload_dlls", lambda: None)()  # onnxruntime 1.21 and later


_CUDA_START_FIX = (
    "it needs an NVIDIA driver (check with nvidia-smi) and the CUDA and cuDNN libraries that it was built for: "
    "pip install 'onnxruntime-gpu[cuda,cudnn]' installs them"
)

_PROVIDER_START_FIX = "its requirements are listed at https://onnxruntime.ai/docs/execution-providers"


def _find_providers(device: str) -> list[str]:
    """Return the onnxruntime provider to start and, for "auto", the one to fall back to."""
    available = ort.get_available_providers()
    if device == "auto":
        return [provider for provider in (PROVIDERS["cuda"], PROVIDERS["cpu"]) if provider in available]
    provider = PROVIDERS.get(device, device)
    if provider not in available:
        names = [name for name, provider in PROVIDERS.items() if provider in available]
        fix = f"available: {', '.join(['auto', *names, *available])}"
        no_cuda_fix = f"replace onnxruntime with onnxruntime-gpu: {gpu_install_commands()}"
        if device == "cuda":
            fix = no_cuda_fix
        elif device.lower() in ("gpu", "nvidia"):
            fix = f"use 'cuda'{'' if 'cuda' in names else f', but first {no_cuda_fix}'} ({fix})"
        raise UsageError(f"device {device!r} is not available in this onnxruntime; {fix}")
    return [provider]


def open_encoder(path: Path, spec: Spec, **options: Any) -> Session:
    """Open the encoder that belongs to a decoder.

    Args:
        path: folder or file of the decoder.
        spec: spec of the decoder.
        options: options of `Session`.

    Raises:
        UsageError: If the encoder was exported from different weights.
        CvaeError: If there is no encoder, or it is damaged.
    """
    encoder = Session(exported_file(path, ENCODER), "encoder", **options)
    if encoder.spec.weights != spec.weights:
        raise UsageError(
            f"the {ENCODER} in the folder of {spec.name!r} was exported from different weights, those of "
            f"{encoder.spec.name!r}; export both again: cvae export onnx {path}"
        )
    return encoder
