"""Morpho-MNIST: digits with known angle and thickness, and how well generated digits have the requested ones.

    python benchmarks/morpho_mnist.py make morpho.npz --data-dir DIR --hold-out 10 30
    python benchmarks/morpho_mnist.py regressor morpho.npz regressor.safetensors
    python benchmarks/morpho_mnist.py evaluate MODEL morpho.npz regressor.safetensors
    python benchmarks/morpho_mnist.py evaluate MODEL2 morpho.npz regressor.safetensors --hold-out 10 30

`make` deskews the digits of MNIST, rotates each by -45 to 45 degrees (counter-clockwise is positive), dilates or erodes
it, and measures the thickness of its strokes in pixels. With --hold-out, it also writes `morpho-held-out.npz`, whose
training images have no angle in this range. `regressor` trains a network on the real training images that recognizes
the digit, the angle and the thickness. `evaluate` compares these with the requested values, for a model with the
conditions label, angle and thickness. MODEL is a run folder, the path of a decoder, or `real`, a control that answers
each request with the training image that is nearest to it. Errors are relative to those of the regressor on real test
images. After Castro et al. 2019, https://arxiv.org/abs/1809.05298.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from _morpho_regressor import load_regressor, measure, save_regressor, train_regressor
from _morpho_scores import Generator, RealImages, Score, score_all, score_held_out
from _morphology import change_thickness, deskew_and_rotate, measure_thickness
from _timing import report

import cvae
from cvae.atomic import write_file
from cvae.config import DataConfig
from cvae.data import load_dataset

MAX_ANGLE = 45.0
"""Largest rotation in degrees, in both directions."""

THICKNESS = 1.4, 4.6
"""Range in pixels of the thickness towards which the strokes of a digit are dilated or eroded."""

CONTROL = "real"
"""Name that stands for the training images instead of a model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="Make the data set.")
    make.add_argument("out", type=Path, metavar="OUT.npz", help="File to write.")
    make.add_argument("--data", default="mnist", metavar="NAME", help="Data set of digits.")
    make.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    make.add_argument("--limit", type=int, metavar="N", help="Use only the first N images of each split.")
    make.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the angles and the thickness.")
    add_hold_out(make, "Also write OUT-held-out.npz, without training images whose angle is in this range.")
    make.set_defaults(run=run_make)

    regressor = commands.add_parser("regressor", help="Train the network that measures images.")
    regressor.add_argument("data", type=Path, metavar="DATA.npz", help="File written by `make`.")
    regressor.add_argument("out", type=Path, metavar="OUT.safetensors", help="File to write.")
    regressor.add_argument("--epochs", type=int, default=6, metavar="N", help="Number of epochs.")
    regressor.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the training.")
    regressor.set_defaults(run=run_regressor)

    evaluate = commands.add_parser("evaluate", help="Compare generated digits with the requested values.")
    evaluate.add_argument("model", metavar="MODEL", help="Exported model, or `real` for the training images.")
    evaluate.add_argument("data", type=Path, metavar="DATA.npz", help="File written by `make`, with all angles.")
    evaluate.add_argument("regressor", type=Path, metavar="REGRESSOR", help="File written by `regressor`.")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the generated images.")
    evaluate.add_argument("--json", action="store_true", help="Print JSON.")
    add_hold_out(evaluate, "Score only this range of angles, for a model that was trained without it.")
    evaluate.set_defaults(run=run_evaluate)

    args = parser.parse_args()
    args.run(args)


def add_hold_out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--hold-out", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)


# -- data --------------------------------------------------------------------------------------------------------------


def run_make(args: argparse.Namespace) -> None:
    dataset = load_dataset(DataConfig(data=args.data, data_dir=args.data_dir, conditional=True, validation=0.0))
    assert dataset.test is not None
    arrays = {}
    for stream, (name, split) in enumerate((("train", dataset.train), ("test", dataset.test))):
        assert split.labels is not None
        rng = np.random.default_rng([args.seed, stream])
        images, angles, thickness = transform(split.images[: args.limit, 0], rng)
        values = {"labels": split.labels[: args.limit], "angle": angles, "thickness": thickness}
        arrays |= {name: images, **{f"{name}_{key}": array for key, array in values.items()}}
        low, high = np.percentile(thickness, [1, 99])
        print(f"{len(images):,} {name} images, thickness {low:.2f} to {high:.2f} px (1st to 99th percentile)")
    save(args.out, arrays)
    if args.hold_out:
        path = args.out.with_stem(f"{args.out.stem}-held-out")
        save(path, hold_out(arrays, *args.hold_out))


def transform(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deskew digits, rotate them, and change the thickness of their strokes.

    Args:
        images: (N, H, W) uint8.
        rng: generator of the angles and the thickness.

    Returns:
        Images (N, H, W) uint8, angles in degrees (N,) float32, measured thickness in pixels (N,) float32.
    """
    angles = rng.uniform(-MAX_ANGLE, MAX_ANGLE, len(images)).astype(np.float32)
    targets = rng.uniform(*THICKNESS, len(images))
    transformed = np.stack(
        [
            change_thickness(deskew_and_rotate(image, float(angle)), target)
            for image, angle, target in zip(images, angles, targets, strict=True)
        ]
    )
    return transformed, angles, measure_thickness(transformed)


def hold_out(arrays: dict[str, np.ndarray], low: float, high: float) -> dict[str, np.ndarray]:
    """Return the arrays without the training images whose angle is in a range."""
    angles = arrays["train_angle"]
    outside = (angles < low) | (angles > high)
    return {key: array[outside] if key.startswith("train") else array for key, array in arrays.items()}


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())
    print(f"{path}: {len(arrays['train']):,} training images")


# -- regressor ---------------------------------------------------------------------------------------------------------


def read_split(path: Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the images (N, 28, 28) of the split train or test, and their labels, angles and thickness."""
    with np.load(path, allow_pickle=False) as arrays:
        keys = {"label": f"{name}_labels", "angle": f"{name}_angle", "thickness": f"{name}_thickness"}
        return arrays[name], {condition: arrays[key] for condition, key in keys.items()}


def run_regressor(args: argparse.Namespace) -> None:
    images, values = read_split(args.data, "train")
    regressor = train_regressor(images, **values, epochs=args.epochs, seed=args.seed)
    images, values = read_split(args.data, "test")
    measured = measure(regressor, images)
    errors = {
        "label: accuracy": float((measured["label"] == values["label"]).mean()),
        "angle: mean absolute error, degrees": float(np.abs(measured["angle"] - values["angle"]).mean()),
        "thickness: mean absolute error, pixels": float(np.abs(measured["thickness"] - values["thickness"]).mean()),
        "thickness: correlation": float(np.corrcoef(measured["thickness"], values["thickness"])[0, 1]),
    }
    save_regressor(args.out, regressor, errors)
    for name, error in errors.items():
        print(f"{name} {error:.4f}")


# -- evaluation --------------------------------------------------------------------------------------------------------


def run_evaluate(args: argparse.Namespace) -> None:
    regressor, errors = load_regressor(args.regressor)
    model: Generator = RealImages(*read_split(args.data, "train")) if args.model == CONTROL else Model(args.model)
    images, values = read_split(args.data, "test")

    def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
        return measure(regressor, images)

    if args.hold_out:
        scores = score_held_out(model, images, values, measure_images, *args.hold_out, seed=args.seed)
    else:
        scores = score_all(model, images, values, measure_images, seed=args.seed)
    table = [("", "generated", "real", "target", "met"), *(format_score(score) for score in scores)]
    notes = [f"regressor on real test images: {name} {error:.4f}" for name, error in errors.items()]
    metrics = {"regressor": errors, "scores": [{**score._asdict(), "met": score.met} for score in scores]}
    report(args.json, metrics, table, notes)


class Model:
    """Exported model that also takes values just beyond the range of its training images, as some test images have."""

    def __init__(self, path: str) -> None:
        self.model = cvae.load(path)

    def generate(self, n: int, *, seed: int, **conditions: np.ndarray) -> np.ndarray:
        return self.model.generate(n, seed=seed, extrapolate=True, **conditions)


def format_score(score: Score) -> tuple[str, ...]:
    """Return a row of the table."""
    real = "" if score.real is None else f"{score.real:.4f}"
    target = f"{'at most' if score.is_error else 'at least'} {score.target:.4g}"
    return score.name, f"{score.value:.4f}", real, target, "yes" if score.met else "no"


if __name__ == "__main__":
    main()
