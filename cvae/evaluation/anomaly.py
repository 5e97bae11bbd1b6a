"""How unlike normal images an image is: scores of a model, and a detector that knows which of their values are normal.

Torch-free.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from cvae.config import MAX_TEXT, from_dict, parse_json, to_dict
from cvae.data import Rows
from cvae.errors import CvaeError, UsageError, one_line
from cvae.evaluation.bounds import batches, log_mean_exp
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.files import read_at_most, whole

SCORES = {
    "reconstruction": "squared error of the reconstruction, summed over pixels",
    "local": "largest error of the reconstruction in one place: of the difference, blurred",
    "bound": "importance-weighted bound on -log p(x), in nats, under the label that fits best",
    "kl": "KL divergence of the code from the prior, in nats",
    "neighbours": "distance of the code from those of the nearest normal images",
    "ratio": "log-likelihood ratio of the other labels to the best one, in deviations of normal images",
    "combined": "how rarely normal images score as high in local, neighbours and ratio",
}
"""The higher, the less normal. `ratio` is of models with several labels only."""

COMBINED = ("local", "neighbours", "ratio")
"""What `combined` is made of: what the pixels, the code and the label tell. None of them sees every anomaly."""

TAIL = 0.1
"""Share of the highest normal scores, whose distribution is fitted instead of counted."""

FOLDS = 10
"""Parts in which normal images are scored by all others."""

BLUR = 0.05
"""Standard deviation of the blur of `local`, as a share of the shorter side."""

SAMPLES = 16
"""Samples of the importance-weighted bound."""

NEIGHBOURS = 5

LEAST = 20
"""Images from which on a label has a mean and a deviation of its own."""

FORMAT = 2
"""The version of a detector's layout. A reader refuses another one."""

FACTS, CODES, CALIBRATION = "detector.json", "detector-codes.npy", "detector-scores.npy"
"""The files of a detector, beside the model's."""


class Measured(NamedTuple):
    """Of N images, without anything known of normal ones; all of it under the label that fits best, if there are any.

    `bound`, `kl` and `ratio` (N,) are in nats.
    """

    squared_error: np.ndarray  # (N,)
    local: np.ndarray
    bound: np.ndarray
    kl: np.ndarray
    ratio: np.ndarray | None
    label: np.ndarray | None  # (N,)
    code: np.ndarray  # (N, Z)
    reconstruction: np.ndarray | None  # (N, C, H, W), where it was asked for


def measure(
    scorer: ExportedScorer,
    images: np.ndarray | Rows,
    *,
    seed: int = 0,
    reconstructions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure images (N, C, H, W), uint8 or float32 in [0, 1]. No label is asked for: all are tried.

    The noise is the same for every image, so that its figures do not depend on those before it.
    """
    noise = np.random.default_rng(seed).standard_normal((1, SAMPLES, scorer.latent_dim), dtype=np.float32)
    parts = []
    for start, image, _ in batches(images, None):
        with np.errstate(all="ignore"):  # numbers that overflow make scores that are not finite, which are refused
            part = _measure(scorer, image, noise)
        parts.append(part if reconstructions else part._replace(reconstruction=None))
        if progress is not None:
            progress(start + len(image), len(images))
    joined: list[Any] = [None if each[0] is None else np.concatenate(each) for each in zip(*parts, strict=True)]
    return Measured(*joined)


def _measure(scorer: ExportedScorer, image: np.ndarray, noise: np.ndarray) -> Measured:
    count, rows = len(image), np.arange(len(image))
    label = ratio = None
    if scorer.classes is not None:
        # The terms of the bound at the mean code: samples would be too noisy to compare labels by.
        middle, terms = np.zeros((count, 1, scorer.latent_dim), np.float32), []
        for k in range(len(scorer.classes)):
            at = scorer.sample(scorer.encode(image, np.full(count, k)), middle)
            terms.append(at.distortion[:, 0] + at.rate[:, 0].sum(1))  # (N, 1), (N, 1, D) -> (N,)
        bounds = np.stack(terms, axis=1)  # (N, K)
        label = bounds.argmin(1)
        if len(terms) > 1:
            best = bounds[rows, label]
            ratio = best - (bounds.sum(1) - best) / (len(terms) - 1)  # from the mean of the other labels
    encoded = scorer.encode(image, label)
    drawn = scorer.sample(encoded, noise.repeat(count, axis=0))  # (1, S, Z) -> (N, S, Z)
    reconstruction = scorer.decode(encoded.mean, label)
    return Measured(
        squared_error=((image - reconstruction) ** 2).sum(axis=(1, 2, 3)),  # (N, C, H, W) -> (N,)
        local=np.abs(_blur(image - reconstruction)).mean(1).max(axis=(1, 2)),  # (N, C, H, W) -> (N,)
        bound=-log_mean_exp(-drawn.distortion - drawn.log_ratio),
        kl=drawn.rate[:, 0].sum(1),
        ratio=ratio,
        label=label,
        code=encoded.mean,
        reconstruction=reconstruction,
    )


def _blur(images: np.ndarray) -> np.ndarray:
    """A Gaussian blur of (N, C, H, W), one side after the other."""
    sigma = BLUR * min(images.shape[2:])
    for axis in (2, 3):
        place = np.arange(images.shape[axis], dtype=np.float32)
        weight = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)  # (S, S)
        weight /= weight.sum(0)
        images = np.moveaxis(np.moveaxis(images, axis, -1) @ weight, -1, axis)
    return images


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is normal, in numbers.

    `weights` is the SHA-256 of the model's; `thresholds` has for each score the value that a share `quantile` of normal
    images is not above, learned from so many `images`. The score `ratio` is counted in deviations `scale` from a mean
    `centre`, each by label, since some classes are more alike than others.
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
    """What is normal for the model `name`: `Facts`, the codes (M, Z) of normal images, and a `calibration` (M, S).

    The calibration is their scores, of those that are `COMBINED`, each column sorted.
    """

    def __init__(self, name: str, facts: Facts, codes: np.ndarray, calibration: np.ndarray) -> None:
        self.name, self.facts, self.codes, self.calibration = name, facts, codes, calibration

    @classmethod
    def fit(
        cls,
        scorer: ExportedScorer,
        images: np.ndarray | Rows,
        *,
        data: str,
        quantile: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn from normal images (N, C, H, W), at best such as the model was not trained on; `data` names them.

        Raises:
            UsageError: there are too few of them, or the quantile is not between 0 and 1.
            CvaeError: a score is not finite.
        """
        if not 0 < quantile < 1:
            raise UsageError(f"--quantile {quantile} is not between 0 and 1, as 0.95 is")
        if len(images) <= NEIGHBOURS:
            raise UsageError(f"{len(images)} normal images are too few to learn from; at least {NEIGHBOURS + 1}")
        normal = measure(scorer, images, progress=progress)
        centre = scale = None
        with np.errstate(all="ignore"):
            if normal.ratio is not None and scorer.classes is not None:
                centre, scale = _by_label(normal, len(scorer.classes))
            scores = _scores(normal, normal.code, centre, scale, itself=1)
            scores["combined"] = _combined_of_normal(scores)
        _require_finite(scores, scorer.name)
        facts = Facts(
            weights=scorer.model.spec.weights,
            data=data,
            images=len(images),
            quantile=quantile,
            thresholds={name: _threshold(score, quantile) for name, score in scores.items()},
            centre=centre,
            scale=scale,
        )
        return cls(scorer.name, facts, normal.code, _calibration(scores))

    def scores(self, measured: Measured) -> dict[str, np.ndarray]:
        """Every score of `SCORES` that the model has, (N,) each.

        Raises:
            CvaeError: a score is not finite.
        """
        with np.errstate(all="ignore"):
            scores = _scores(measured, self.codes, self.facts.centre, self.facts.scale, itself=0)
            scores["combined"] = _combined(scores, self.calibration)
        _require_finite(scores, self.name)
        return scores

    def save(self, folder: Path) -> list[Path]:
        """Write the detector's three files into a model's folder.

        Raises:
            CvaeError: they can't be written.
        """
        paths = [folder / FACTS, folder / CODES, folder / CALIBRATION]
        with ExitStack() as together:
            facts, codes, calibration = (together.enter_context(whole(path)) for path in paths)
            facts.write_text(json.dumps(to_dict(self.facts), indent=2) + "\n")
            np.save(codes, self.codes)
            np.save(calibration, self.calibration)
        return paths

    @classmethod
    def load(cls, folder: Path, scorer: ExportedScorer) -> Self:
        """Read the detector beside a model.

        Raises:
            CvaeError: there is none, it is damaged, or it was made for other weights.
        """
        path, again = folder / FACTS, f"make one with: cvae detect fit {folder}"
        if not path.is_file():
            raise CvaeError(f"{str(folder)!r} has no {FACTS}; {again}")
        try:
            data = parse_json(read_at_most(path, MAX_TEXT))
            if not isinstance(data, dict):
                raise ValueError(f"{FACTS} is no JSON object")
            if (version := data.get("format")) != FORMAT:
                raise ValueError(f"it has the format {one_line(version)}, not {FORMAT}")
            facts = from_dict(Facts, data)
            # Maps, since a header that promises more than the file holds is refused before memory is asked for.
            with np.errstate(over="raise"):
                paths = (folder / CODES, folder / CALIBRATION)
                codes, calibration = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        except Exception as error:  # for a damaged array numpy raises anything from ValueError to MemoryError
            raise CvaeError(f"the detector in {str(folder)!r} can't be read ({one_line(error)}); {again}") from error
        model = scorer.model.spec
        labels = 0 if model.classes is None or len(model.classes) < 2 else len(model.classes)
        names = [name for name in SCORES if name != "ratio" or labels]
        if not (
            list(facts.thresholds) == names
            and len(facts.centre or ()) == len(facts.scale or ()) == labels
            and _is_array(codes, (facts.images, model.latent_dim), np.float32)
            and _is_array(calibration, (facts.images, sum(name in COMBINED for name in names)), np.float64)
            and all(map(math.isfinite, (*facts.thresholds.values(), *(facts.centre or ()), *(facts.scale or ()))))
            and facts.images > NEIGHBOURS
        ):
            raise CvaeError(f"the detector in {str(folder)!r} is damaged; {again}")
        if facts.weights != model.weights:
            raise CvaeError(f"the detector in {str(folder)!r} was made for other weights; {again}")
        return cls(scorer.name, facts, np.array(codes), np.array(calibration))


def _is_array(loaded: Any, shape: tuple[int, ...], dtype: type) -> bool:
    """Whether it is no archive, but an array of finite numbers."""
    return (
        isinstance(loaded, np.ndarray)
        and loaded.shape == shape
        and loaded.dtype == dtype
        and bool(np.isfinite(loaded).all())
    )


def _require_finite(scores: Mapping[str, np.ndarray], model: str) -> None:
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise CvaeError(
                f"the score {name!r} of {model!r} is not finite: its codes or their deviations are too large or too "
                "small to compute with; export it again from a run that has not diverged"
            )


def _by_label(normal: Measured, labels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the ratio for each best label; those of all images where a label has too few."""
    assert normal.ratio is not None
    centre, scale = [], []
    for label in range(labels):
        ratio = normal.ratio[normal.label == label]
        ratio = ratio if len(ratio) >= LEAST else normal.ratio
        centre.append(float(ratio.mean()))
        scale.append(float(ratio.std().clip(min=1e-6)))
    return tuple(centre), tuple(scale)


def _scores(
    measured: Measured,
    codes: np.ndarray,
    centre: tuple[float, ...] | None,
    scale: tuple[float, ...] | None,
    itself: int,
) -> dict[str, np.ndarray]:
    """Each score alone, (N,). `itself` is 1 where `codes` (M, Z) are those of the images measured, so that each is its
    own nearest neighbour, else 0."""
    scores = {
        "reconstruction": measured.squared_error,
        "local": measured.local,
        "bound": measured.bound,
        "kl": measured.kl,
        "neighbours": _distance(measured.code, codes, itself),
    }
    if measured.ratio is not None and measured.label is not None:
        scores["ratio"] = (measured.ratio - np.array(centre)[measured.label]) / np.array(scale)[measured.label]
    return scores


def _threshold(score: np.ndarray, quantile: float) -> float:
    """From the scores (M,) of normal images the one that a new normal image is not above with probability `quantile`.

    Split conformal prediction (Lei et al. 2018, algorithm 2, https://arxiv.org/abs/1604.04173); the largest where there
    are too few images for that.
    """
    rank = min(len(score), math.ceil((len(score) + 1) * quantile))
    return float(np.sort(score)[rank - 1])


def _calibration(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Those scores (M,) of normal images that are `COMBINED`, each sorted: (M, S)."""
    return np.sort([scores[name].astype(np.float64) for name in COMBINED if name in scores], axis=1).T


def _combined(scores: Mapping[str, np.ndarray], calibration: np.ndarray) -> np.ndarray:
    """Fisher's method: -2 sum ln p over the scores that are `COMBINED` (Fisher 1932, Statistical Methods for Research
    Workers, 4th edition, section 21.1). They depend on each other, so that it is no chi-squared variable; a quantile
    serves."""
    parts = [scores[name] for name in COMBINED if name in scores]
    logs = [_log_p(score, normal) for score, normal in zip(parts, calibration.T, strict=True)]
    return -2 * np.sum(logs, axis=0) + 0.0  # which makes -0 a 0


def _combined_of_normal(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of the normal images themselves (M,), each fold against all others, so that they score as new ones do."""
    fold = np.arange(len(next(iter(scores.values())))) % FOLDS
    combined = np.zeros(len(fold))
    for own in (fold == number for number in range(FOLDS)):
        others = _calibration({name: score[~own] for name, score in scores.items()})
        combined[own] = _combined({name: score[own] for name, score in scores.items()}, others)
    return combined


def _log_p(score: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The logarithm of each score's (N,) p-value: the share of normal ones (M,), sorted, that are no lower.

    Beyond all but `TAIL` of them it falls on as an exponential fitted there (peaks over threshold, Pickands 1975,
    https://doi.org/10.1214/aos/1176343003, with the shape 0), so that no two extremes are alike.
    """
    count = len(normal)
    tail = min(max(NEIGHBOURS, int(TAIL * count)), count - 1)
    start, share = normal[-tail - 1], tail / count
    excess = max((normal[-tail:] - start).mean(), 1e-6 * max(1.0, abs(start)))
    lower = np.searchsorted(normal, score) / count  # (N,)
    return np.log(np.maximum(1 - lower, share)) - np.maximum(score - start, 0) / excess


def _distance(code: np.ndarray, codes: np.ndarray, itself: int) -> np.ndarray:
    """The mean distance of each code (N, Z) to the `NEIGHBOURS` nearest of codes (M, Z), after the first `itself`."""
    squares, last = (codes**2).sum(1), itself + NEIGHBOURS
    found = []
    for part in np.array_split(code, -(-len(code) // 500)):
        squared = (part**2).sum(1)[:, None] + squares - 2 * part @ codes.T  # (n, Z), (M, Z) -> (n, M)
        near = np.sort(np.partition(squared, last - 1, axis=1)[:, :last], axis=1)[:, itself:]
        found.append(np.sqrt(near.clip(min=0)).mean(1))
    return np.concatenate(found)
