"""Quality of models of colour images: reconstructions, classes of generated images, sharpness, copies and speed.

    python benchmarks/colour.py MODEL --data folder:cars --baseline MODEL2

The models are exported models with labels: a run folder, or the path of a decoder. The features come from a classifier
that is trained on the real images, once for all models, and cached. Half of the images that it learns from are
blurred, so that blur alone does not decide the Fréchet distance. The 2,000 generated images have the class frequencies
of the training images. If the baseline generates images of another size, they are scaled to the size of MODEL first.
"""

import argparse
from typing import NamedTuple

import numpy as np
from _timing import add_smoke, parse_args, report

import cvae
from cvae.api.classifier import train_extractor
from cvae.config import DataConfig
from cvae.data import Dataset, Split, load_dataset
from cvae.data.images import resize
from cvae.evaluation.bounds import as_float, batches
from cvae.evaluation.exported_scorer import measure_runtime
from cvae.evaluation.feature_extractor import FeatureExtractor, load_feature_extractor
from cvae.evaluation.fidelity import frechet_distance, memorization, psnr, sharpness
from cvae.evaluation.generation import extract_features, subsample
from cvae.imaging import to_uint8
from cvae.runtime import Model

GENERATED = 2000
THREADS = 2
FRECHET = "Fréchet distance to training images"


class Reference(NamedTuple):
    """Real images that models are compared with."""

    data: Dataset
    extractor: FeatureExtractor
    train: np.ndarray  # features (N, D) of the training images
    held_out: np.ndarray  # features (M, D) of the test images
    sharpness: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="Exported model with labels.")
    parser.add_argument("--baseline", metavar="MODEL2", help="Model whose Fréchet distance counts as 1.")
    parser.add_argument("--data", default="folder:cars", metavar="NAME", help="Data set with labels and test images.")
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of data sets and of the cache.")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="Temperature of generated images.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of generated images.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    add_smoke(parser)
    args = parse_args(parser, data="mnist-small")
    models = {name: cvae.load(name, threads=THREADS) for name in (args.model, args.baseline) if name}
    first = models[args.model]
    real = load_reference(first, args)
    metrics = {}
    for name, model in models.items():
        data = real.data if model.image_shape == first.image_shape else load_dataset(data_config(model, args))
        metrics[name] = measure(model, data, real, args.temperature, args.seed)
    if args.baseline:
        distance = metrics[args.baseline]["Fréchet distance to training images"]
        for values in metrics.values():
            values["Fréchet distance, relative to the baseline"] = (
                values["Fréchet distance to training images"] / distance
            )
    names = list(metrics[args.model])
    table = [("", *metrics), *((row, *(f"{values[row]:.4g}" for values in metrics.values())) for row in names)]
    reference = {
        "accuracy of the classifier on held-out images": real.extractor.accuracy or 0.0,
        "Fréchet distance of held-out images": frechet_distance(real.held_out, real.train),
        "sharpness of training images": real.sharpness,
    }
    notes = [f"{len(real.train):,} training images, {len(real.held_out):,} held-out images; {real.extractor.name}"]
    notes += [f"{name}: {value:.4g}" for name, value in reference.items()]
    report(args.json, {"models": metrics, "real": reference}, table, notes)


def data_config(model: Model, args: argparse.Namespace) -> DataConfig:
    """Return the config of the data set in the size of a model."""
    height, width = model.image_shape[1:]
    return DataConfig(
        data=args.data, data_dir=args.data_dir, size=f"{height}x{width}", conditional=True, validation=0.0
    )


def load_reference(model: Model, args: argparse.Namespace) -> Reference:
    """Load the real images in the size of a model, and compute their features."""
    config = data_config(model, args)
    data = load_dataset(config)
    assert data.test is not None, "the data set has no test images"
    extractor = load_feature_extractor(args.data) if args.smoke else train_extractor(config)
    train, held_out = (extract_features(extractor, split) for split in (data.train, data.test))
    sharp = np.concatenate([sharpness(image) for _, image, _ in batches(data.train.images, None)])
    return Reference(data, extractor, train, held_out, float(sharp.mean()))


def measure(model: Model, data: Dataset, real: Reference, temperature: float, seed: int) -> dict[str, float]:
    """Return the metrics of a model.

    Args:
        model: the model.
        data: the real images in the size of the model.
        real: the real images that generated images are compared with.
        temperature: temperature of the generated images.
        seed: seed of the generated images.
    """
    extractor = real.extractor
    assert data.test is not None and data.train.labels is not None
    assert extractor.accuracy is not None
    held_out = as_float(data.test.images[:])
    reconstructions = np.asarray(model.reconstruct(held_out, label_index=data.test.labels))
    # evenly spaced images in the order of the classes have the frequencies of the classes
    labels = subsample(Split(images=data.train.images, labels=np.sort(data.train.labels)), GENERATED).labels
    assert labels is not None
    images = model.generate(len(labels), label_index=labels, seed=seed, temperature=temperature)
    size = real.data.train.images.shape[2:]
    images, resized = (as_float(resize(to_uint8(pixels), size)) for pixels in (images, reconstructions))
    features = extractor.features(images)
    runtime = measure_runtime(model)
    accuracy = float((extractor.predict(images) == labels).mean())
    reconstructed = float((extractor.predict(resized) == data.test.labels).mean())
    return {
        "PSNR of held-out images, dB": float(psnr(held_out, reconstructions).mean()),
        "class of reconstructions, relative to held-out images": reconstructed / extractor.accuracy,
        "class as requested": accuracy,
        "class as requested, relative to held-out images": accuracy / extractor.accuracy,
        FRECHET: frechet_distance(features, real.train),
        "sharpness of reconstructions, relative to training images": float(sharpness(resized).mean()) / real.sharpness,
        "sharpness, relative to training images": float(sharpness(images).mean()) / real.sharpness,
        "nearer to a training image than 95 % of held-out images": memorization(features, real.train, real.held_out),
        "decoding on two threads, ms per image": runtime["milliseconds_per_image"],
        "decoder, MB": runtime["decoder_megabytes"],
    }


if __name__ == "__main__":
    main()
