"""The anomaly detector and its files. Does not import torch."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from cvae.atomic import atomic_write, read_at_most, save_array
from cvae.data import DiskImages
from cvae.detection.calibration import (
    COMBINED,
    combine,
    combine_normal,
    conformal_threshold,
    ratio_statistics,
    sorted_scores,
)
from cvae.detection.scores import NEIGHBOURS, SCORES, Measurement, individual_scores, measure
from cvae.errors import CvaeError, UsageError, one_line
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.serialization import MAX_TEXT, from_dict, parse_json, to_dict
from cvae.spec import Spec

FORMAT = 2
"""Version of the detector's files. Files of any other version are rejected."""

METADATA, CODES, CALIBRATION = "detector.json", "detector-codes.npy", "detector-scores.npy"
"""Detector files, stored next to the model's files."""

MAX_ARRAY_BYTES = 2**28
"""Maximum size of the arrays in an untrusted detector."""

NPY_MAGIC, MAX_HEADER_BYTES = b"\x93NUMPY\x01\x00", 2**10
"""First bytes of an .npy file of version 1.0, and the maximum size of its header."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Statistics of normal images.

    Attributes:
        format: version of the detector's files.
        weights: SHA-256 of the model's weights.
        data: name of the data set of normal images.
        images: number of normal images.
        quantile: fraction of normal images whose score does not exceed the threshold.
        thresholds: threshold of each score.
        centre: mean of `Measurement.ratio` for each label. It depends on the label, because some classes are easier
            to confuse with others.
        scale: standard deviation of `Measurement.ratio` for each label. It is the unit of the score `ratio`.
    """

    format: int = FORMAT
    weights: str
    data: str
    images: int
    quantile: float
    thresholds: Mapping[str, float]
    centre: tuple[float, ...] | None
    scale: tuple[float, ...] | None


class Detector:
    """A detector of images that differ from a model's normal images.

    Args:
        name: name of the model.
        metadata: statistics of normal images.
        codes: latent codes of normal images, (M, Z).
        calibration: scores of normal images, (M, S): one sorted column for each score, in the order of `COMBINED`.
    """

    def __init__(self, name: str, metadata: Metadata, codes: np.ndarray, calibration: np.ndarray) -> None:
        self.name, self.metadata, self.codes, self.calibration = name, metadata, codes, calibration

    @classmethod
    def fit(
        cls,
        scorer: ExportedScorer,
        images: np.ndarray | DiskImages,
        *,
        data: str,
        quantile: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Fit a detector to normal images.

        Args:
            scorer: the exported model.
            images: (N, C, H, W), preferably images that the model was not trained on.
            data: name of the data set that contains the images.
            quantile: fraction of normal images whose score does not exceed the threshold.
            progress: function called with the number of images measured so far and the total.

        Raises:
            UsageError: If there are too few images, or the quantile is not between 0 and 1.
            CvaeError: If a score is not finite.
        """
        if not 0 < quantile < 1:
            raise UsageError(f"--quantile {quantile} is not between 0 and 1; use, for example, 0.95")
        if len(images) <= NEIGHBOURS:
            raise UsageError(f"{len(images)} normal images are too few to learn from; use at least {NEIGHBOURS + 1}")
        normal = measure(scorer, images, progress=progress)
        centre = scale = None
        with np.errstate(all="ignore"):
            if normal.ratio is not None and scorer.classes is not None:
                centre, scale = ratio_statistics(normal, len(scorer.classes))
            scores = individual_scores(normal, normal.code, centre, scale, self_matches=1)
            scores["combined"] = combine_normal(scores)
        _require_finite(scores, scorer.name)
        metadata = Metadata(
            weights=scorer.model.spec.weights,
            data=data,
            images=len(images),
            quantile=quantile,
            thresholds={name: conformal_threshold(score, quantile) for name, score in scores.items()},
            centre=centre,
            scale=scale,
        )
        return cls(scorer.name, metadata, normal.code, sorted_scores(scores))

    def scores(self, measurement: Measurement) -> dict[str, np.ndarray]:
        """Return all scores in `SCORES` that the model supports, (N,) each.

        Raises:
            CvaeError: If a score is not finite.
        """
        with np.errstate(all="ignore"):
            centre, scale = self.metadata.centre, self.metadata.scale
            scores = individual_scores(measurement, self.codes, centre, scale, self_matches=0)
            scores["combined"] = combine(scores, self.calibration)
        _require_finite(scores, self.name)
        return scores

    def save(self, folder: Path) -> list[Path]:
        """Write the detector's three files to a model's folder, and return their paths.

        The metadata are removed first and written last, so that they never describe the arrays of another detector,
        even if the process is killed.

        Raises:
            CvaeError: If the files can't be written.
        """
        paths = [folder / METADATA, folder / CODES, folder / CALIBRATION]
        with ExitStack() as stack:
            # The stack renames them in reverse order.
            metadata, *arrays = (stack.enter_context(atomic_write(path)) for path in paths)
            metadata.write_text(json.dumps(to_dict(self.metadata), indent=2) + "\n")
            for temporary_path, array in zip(arrays, (self.codes, self.calibration), strict=True):
                save_array(temporary_path, array)
            paths[0].unlink(missing_ok=True)
        return paths

    @classmethod
    def load(cls, folder: Path, model: Spec) -> Self:
        """Read the detector in the folder of a model with this spec.

        Raises:
            CvaeError: If the folder has no detector, or the detector is damaged or was fitted to different weights.
        """
        path, fix = folder / METADATA, f"fit a new one with: cvae detect fit {folder}"
        if not path.is_file():
            raise CvaeError(f"{str(folder)!r} has no {METADATA}; {fix}")
        try:
            data = parse_json(read_at_most(path, MAX_TEXT))
            if not isinstance(data, dict):
                raise ValueError(f"{METADATA} is not a JSON object")
            if (version := data.get("format")) != FORMAT:
                raise ValueError(f"its format is {one_line(version)}, not {FORMAT}")
            metadata = from_dict(Metadata, data)
            labels = 0 if model.classes is None or len(model.classes) < 2 else len(model.classes)
            names = [name for name in SCORES if name != "ratio" or labels]
            if not (
                list(metadata.thresholds) == names
                and len(metadata.centre or ()) == len(metadata.scale or ()) == labels
                and metadata.images > NEIGHBOURS
            ):
                raise ValueError(f"{METADATA} does not fit the model")
            if not all(map(math.isfinite, (*metadata.thresholds.values(), *(metadata.centre or ())))):
                raise ValueError(f"{METADATA} has a threshold or centre that is not finite")
            if not all(0 < scale < math.inf for scale in metadata.scale or ()):
                raise ValueError(f"{METADATA} has a scale that is not positive and finite")
            num_columns = sum(name in COMBINED for name in names)
            codes = _read_array(folder / CODES, (metadata.images, model.latent_dim), np.dtype(np.float32))
            calibration = _read_array(folder / CALIBRATION, (metadata.images, num_columns), np.dtype(np.float64))
        except (CvaeError, ValueError) as error:
            raise CvaeError(f"the detector in {str(folder)!r} can't be read ({one_line(error)}); {fix}") from error
        if metadata.weights != model.weights:
            raise CvaeError(f"the detector in {str(folder)!r} was fitted to different weights; {fix}")
        return cls(model.name, metadata, codes, calibration)


def _read_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Read an untrusted .npy file.

    Raises:
        CvaeError: If the file can't be read, or is larger than the array or `MAX_ARRAY_BYTES`.
        ValueError: If it does not hold an array of this shape and type, or a value is not finite.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"{path.name} would have more than {MAX_ARRAY_BYTES:,} bytes")
    data = read_at_most(path, MAX_HEADER_BYTES + size)
    start = len(NPY_MAGIC) + 2 + int.from_bytes(data[len(NPY_MAGIC) :][:2], "little")
    # numpy itself would parse the header with Python's parser, and trust the shape.
    header = b"".join(data[len(NPY_MAGIC) + 2 : start].split())
    text = f"{{'descr':'{dtype.str}','fortran_order':%s,'shape':{shape},}}".replace(" ", "")
    orders: dict[bytes, Literal["C", "F"]] = {(text % False).encode(): "C", (text % True).encode(): "F"}
    if not (data.startswith(NPY_MAGIC) and header in orders and len(data) == start + size):
        raise ValueError(f"{path.name} does not hold a {dtype} array of shape {shape}")
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order=orders[header])
    if not np.isfinite(array).all():
        raise ValueError(f"{path.name} holds values that are not finite")
    return array


def _require_finite(scores: Mapping[str, np.ndarray], model: str) -> None:
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise CvaeError(
                f"the score {name!r} of {model!r} is not finite: the model's codes or their standard deviations are "
                "too large or too small to compute with; export the model again from a run that has not diverged"
            )
