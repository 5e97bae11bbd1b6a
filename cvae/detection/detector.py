"""The anomaly detector and its files. Does not import torch."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from cvae.atomic import atomic_write, read_at_most
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

FORMAT = 2
"""Version of the detector's files. Files of any other version are rejected."""

METADATA, CODES, CALIBRATION = "detector.json", "detector-codes.npy", "detector-scores.npy"
"""Detector files, stored next to the model's files."""


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

        Raises:
            CvaeError: If the files can't be written.
        """
        paths = [folder / METADATA, folder / CODES, folder / CALIBRATION]
        with ExitStack() as stack:
            metadata, codes, calibration = (stack.enter_context(atomic_write(path)) for path in paths)
            metadata.write_text(json.dumps(to_dict(self.metadata), indent=2) + "\n")
            np.save(codes, self.codes)
            np.save(calibration, self.calibration)
        return paths

    @classmethod
    def load(cls, folder: Path, scorer: ExportedScorer) -> Self:
        """Read the detector in a model's folder.

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
            # Map the files into memory: if a header claims too much data, the file is rejected before any allocation.
            with np.errstate(over="raise"):
                paths = (folder / CODES, folder / CALIBRATION)
                codes, calibration = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        except Exception as error:  # numpy raises anything from ValueError to MemoryError for a damaged array
            raise CvaeError(f"the detector in {str(folder)!r} can't be read ({one_line(error)}); {fix}") from error
        model = scorer.model.spec
        labels = 0 if model.classes is None or len(model.classes) < 2 else len(model.classes)
        names = [name for name in SCORES if name != "ratio" or labels]
        if not (
            list(metadata.thresholds) == names
            and len(metadata.centre or ()) == len(metadata.scale or ()) == labels
            and _is_array(codes, (metadata.images, model.latent_dim), np.float32)
            and _is_array(calibration, (metadata.images, sum(name in COMBINED for name in names)), np.float64)
            and all(
                map(math.isfinite, (*metadata.thresholds.values(), *(metadata.centre or ()), *(metadata.scale or ())))
            )
            and metadata.images > NEIGHBOURS
        ):
            raise CvaeError(f"the detector in {str(folder)!r} is damaged; {fix}")
        if metadata.weights != model.weights:
            raise CvaeError(f"the detector in {str(folder)!r} was fitted to different weights; {fix}")
        return cls(scorer.name, metadata, np.array(codes), np.array(calibration))


def _require_finite(scores: Mapping[str, np.ndarray], model: str) -> None:
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise CvaeError(
                f"the score {name!r} of {model!r} is not finite: the model's codes or their standard deviations are "
                "too large or too small to compute with; export the model again from a run that has not diverged"
            )


def _is_array(value: Any, shape: tuple[int, ...], dtype: type) -> bool:
    """Return whether `np.load` has returned an array, not an archive, with this shape and type and finite values."""
    return (
        isinstance(value, np.ndarray)
        and value.shape == shape
        and value.dtype == dtype
        and bool(np.isfinite(value).all())
    )
