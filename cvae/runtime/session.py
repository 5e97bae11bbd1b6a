"""One exported file in onnxruntime: read once, checked against its own spec, run in chunks."""

import math
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cvae.atomic import read_at_most
from cvae.errors import CvaeError, UsageError, one_line
from cvae.runtime import protobuf
from cvae.runtime.scan import scan, signature
from cvae.spec import KEY, Spec

MAX_BYTES = 512 * 2**20
"""A larger file is refused before it is read."""

CHUNK = 64
"""Images per run: faster than one large batch, in bounded memory, and the same bits whatever the total."""

MAX_ELEMENTS = 2**26
"""Numbers in all tensors of one run, 256 MB: a chunk has fewer images where one takes more than a 64th of it."""

BATCHES = (1, 4, 16, CHUNK)
"""The batch sizes of runs that are not on the CPU: a GPU searches for its convolutions anew at each size it meets."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def read_spec(path: Path) -> tuple[Spec, bytes]:
    """The spec of an exported file, and the file's bytes; onnxruntime is not involved.

    Raises:
        CvaeError: the file can't be read, is too large, or was not exported by cvae.
    """
    data = read_at_most(path, MAX_BYTES)
    text = protobuf.metadata(data, str(path)).get(KEY)
    if text is None:
        raise CvaeError(f"{str(path)!r} was not exported by cvae: its metadata has no {KEY!r} entry")
    return Spec.from_json(text, str(path)), data


def read_checked(path: Path, role: str) -> tuple[Spec, bytes, int]:
    """The spec of an exported file, the bytes, and how many numbers an image takes, as `scan` found.

    Raises:
        UsageError: it is not of this role.
        CvaeError: as `read_spec` and `cvae.runtime.scan` refuse it.
    """
    spec, data = read_spec(path)
    if spec.role != role:
        raise UsageError(f"{str(path)!r} is an {spec.role}, here a {role} is needed")
    return spec, data, scan(data, spec, str(path))


class Session:
    """An exported file, ready to run; safe to use from several threads.

    What a stranger's file may hold and ask for is checked by `cvae.runtime.scan` before onnxruntime sees it.

    Args:
        path: the file.
        role: "decoder" or "encoder", which the file must be.
        device: "cpu", "cuda", "auto" (CUDA where it starts, else the CPU), or an onnxruntime provider by its name.
        threads: of one run; None leaves it to onnxruntime, which takes one a core.
        spinning: let threads spin between runs too, while they wait for the next: quicker in a tight loop, but it burns
            CPU.
        arena: keep freed memory for the next run: no faster here, and it stays resident.
    """

    def __init__(
        self, path: Path, role: str, *, device: str = "cpu", threads: int | None = None, spinning: bool, arena: bool
    ) -> None:
        self.spec, data, elements = read_checked(path, role)
        self._source = str(path)
        self._most = max(1, MAX_ELEMENTS // max(1, elements))
        self._outputs = {name: tensor.shape[1:] for name, tensor in signature(self.spec)[1].items()}
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the one that was scanned
        options.enable_cpu_mem_arena = arena
        options.intra_op_num_threads = threads or 0
        # Within a run threads spin while they wait for each other, for 1.2 times the speed; after it they sleep.
        options.add_session_config_entry("session.force_spinning_stop", str(int(not spinning)))
        first, *others = _providers(device)
        try:
            self._session, self.provider = self._start(data, options, first), first
        except CvaeError:
            if not others:
                raise
            self._session, self.provider = self._start(data, options, others[0]), others[0]
        self._batches = () if self.provider == PROVIDERS["cpu"] else BATCHES

    def _start(self, data: bytes, options: ort.SessionOptions, provider: str) -> ort.InferenceSession:
        try:
            session = ort.InferenceSession(data, options, providers=[provider], enable_fallback=False)
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise CvaeError(f"onnxruntime refuses {self._source!r} on {provider}: {one_line(error)}") from error
        if provider not in session.get_providers():
            fix = _CUDA_FIX if provider == PROVIDERS["cuda"] else _OTHER_FIX
            raise CvaeError(f"onnxruntime could not start {provider} and would run on the CPU; {fix}")
        return session

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs for a batch of any size; `inputs` by name, the batch along the first axis.

        Raises:
            CvaeError: onnxruntime fails, or an output is not finite or not of the shape that the spec says.
        """
        count = len(next(iter(inputs.values())))
        step = min(CHUNK, self._most)
        if count <= step:
            return self._run(inputs)
        outputs: list[np.ndarray] = []
        for start in range(0, count, step):
            chunk = self._run({name: value[start : start + step] for name, value in inputs.items()})
            outputs = outputs or [np.empty((count, *part.shape[1:]), part.dtype) for part in chunk]
            for whole, part in zip(outputs, chunk, strict=True):
                whole[start : start + step] = part
        return outputs

    def _run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        count, padded = len(next(iter(inputs.values()))), inputs
        missing = next((size - count for size in self._batches if count <= size <= self._most), 0)
        if missing:  # filled up with repetitions of the first
            padded = {name: np.concatenate([value, value[:1].repeat(missing, 0)]) for name, value in inputs.items()}
        try:
            outputs = self._session.run(list(self._outputs), padded)
        except Exception as error:  # as above
            raise CvaeError(f"onnxruntime fails on {self._source!r}: {one_line(error)}") from error
        for (name, shape), part in zip(self._outputs.items(), outputs, strict=True):
            if part.shape != (count + missing, *shape) or part.dtype != np.float32:
                raise CvaeError(
                    f"{self._source!r} contradicts its own spec: its output {name!r} is {part.dtype} {part.shape}, not "
                    f"float32 {(count + missing, *shape)}; use a file that cvae export onnx has written"
                )
        # A sum is the quickest way to see one that is not.
        if not all(math.isfinite(np.add.reduce(part, axis=None)) for part in outputs):
            raise CvaeError(
                f"{self._source!r} gives numbers that are not finite: its weights are damaged, or the input is far "
                "beyond what it was trained on"
            )
        return [part[:count] for part in outputs] if missing else outputs


_GPU_FIX = (
    "swap the packages, they overwrite each other: "
    "pip uninstall -y onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
)


_CUDA_FIX = (
    "it needs an NVIDIA driver (look with nvidia-smi) and the CUDA and cuDNN libraries that it was built for: "
    "pip install 'onnxruntime-gpu[cuda,cudnn]' brings these"
)

_OTHER_FIX = "what it needs is listed at https://onnxruntime.ai/docs/execution-providers"


def _providers(device: str) -> list[str]:
    """Of onnxruntime: the one to start, and for "auto" the one to take where that does not start."""
    available = ort.get_available_providers()
    if device == "auto":
        return [provider for provider in (PROVIDERS["cuda"], PROVIDERS["cpu"]) if provider in available]
    provider = PROVIDERS.get(device, device)
    if provider not in available:
        fix = _GPU_FIX if device == "cuda" else f"here are: {', '.join(['auto', *PROVIDERS, *available])}"
        raise UsageError(f"device {device!r} is not in this onnxruntime; {fix}")
    return [provider]
