"""One exported file in onnxruntime: read once, checked against its own spec, run in chunks."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from cvae.errors import CvaeError, UsageError
from cvae.runtime import protobuf
from cvae.spec import KEY, Spec

MAX_BYTES = 512 * 2**20
"""A larger file is refused before it is read."""

CHUNK = 64
"""Images per run: faster than one large batch, in bounded memory, and the same bits whatever the total."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def read_spec(path: Path) -> tuple[Spec, bytes]:
    """The spec of an exported file, and the file's bytes; onnxruntime is not involved.

    Raises:
        CvaeError: the file can't be read, is too large, or was not exported by cvae.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CvaeError(f"{str(path)!r} is larger than {MAX_BYTES >> 20} MB; it is not loaded")
        data = path.read_bytes()
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    text = protobuf.metadata(data, str(path)).get(KEY)
    if text is None:
        raise CvaeError(f"{str(path)!r} was not exported by cvae: its metadata has no {KEY!r} entry")
    return Spec.from_json(text, str(path)), data


class Session:
    """An exported file, ready to run; safe to use from several threads.

    Args:
        path: the file.
        role: "decoder" or "encoder", which the file must be.
        device: "cpu", "cuda", "auto", or an onnxruntime provider by its name.
        threads: of one run; None leaves it to onnxruntime, which takes one a core.
        spinning: let waiting threads spin: quicker in a tight loop, but it burns CPU between calls.
        arena: keep freed memory for the next run: no faster here, and it stays resident.
    """

    def __init__(
        self, path: Path, role: str, *, device: str = "cpu", threads: int | None = None, spinning: bool, arena: bool
    ) -> None:
        self.spec, data = read_spec(path)
        if self.spec.role != role:
            raise UsageError(f"{str(path)!r} is an {self.spec.role}, here a {role} is needed")
        provider = _provider(device)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.enable_cpu_mem_arena = arena
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        try:
            self._session = ort.InferenceSession(data, options, providers=[provider], enable_fallback=False)
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise CvaeError(f"onnxruntime refuses {str(path)!r}: {str(error).splitlines()[0]}") from error
        if provider not in self._session.get_providers():
            raise CvaeError(f"onnxruntime could not start {provider} and would run on the CPU; {_GPU_FIX}")
        self.provider = provider
        _check_signature(self._session, self.spec, str(path))

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs for a batch of any size; `inputs` by name, the batch along the first axis."""
        count = len(next(iter(inputs.values())))
        outputs: list[np.ndarray] = []
        for start in range(0, count, CHUNK):
            chunk = self._session.run(None, {name: value[start : start + CHUNK] for name, value in inputs.items()})
            if not outputs:
                outputs = [np.empty((count, *part.shape[1:]), part.dtype) for part in chunk]
            for whole, part in zip(outputs, chunk, strict=True):
                whole[start : start + CHUNK] = part
        return outputs


_GPU_FIX = (
    "swap the packages, they overwrite each other: "
    "pip uninstall -y onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
)


def _provider(device: str) -> str:
    available = ort.get_available_providers()
    if device == "auto":
        device = next((name for name in ("cuda", "cpu") if PROVIDERS[name] in available), "cpu")
    provider = PROVIDERS.get(device, device)
    if provider not in available:
        fix = _GPU_FIX if device == "cuda" else f"here are: {', '.join(['auto', *PROVIDERS, *available])}"
        raise UsageError(f"device {device!r} is not in this onnxruntime; {fix}")
    return provider


def _check_signature(session: ort.InferenceSession, spec: Spec, source: str) -> None:
    """Inputs and outputs must be what the spec says: names, element types, shapes."""
    noise, image = ("tensor(float)", [spec.latent_dim]), ("tensor(float)", list(spec.image_shape))
    label: dict[str, tuple[str, list[int]]] = {} if spec.classes is None else {"label": ("tensor(int64)", [])}
    if spec.role == "decoder":
        inputs, outputs = {"noise": noise, **label}, {"image": image}
    else:
        inputs, outputs = {"image": image, **label}, {"mean": noise, "std": noise}
    try:
        actual = [
            {arg.name: (arg.type, list(arg.shape[1:])) for arg in found}
            for found in (session.get_inputs(), session.get_outputs())
        ]
    except UnicodeDecodeError as error:
        raise CvaeError(f"{source!r} is damaged: a name in it is no text") from error
    if actual != [inputs, outputs]:
        raise CvaeError(f"{source!r} contradicts its own spec: its inputs and outputs are {actual}")
