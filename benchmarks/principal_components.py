"""Reconstruction from principal components, as a linear baseline for a latent code of the same size.

    python benchmarks/principal_components.py --data folder:cars --size 64 --components 256

The script prints the mean PSNR of the reconstructed test images, a metric that `cvae evaluate` reports too. With the
default options, the script takes seconds.
"""

import argparse

import numpy as np
from sklearn.decomposition import PCA

from cvae.config import DataConfig
from cvae.data import load_dataset
from cvae.evaluation.bounds import as_float
from cvae.evaluation.fidelity import psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", metavar="NAME", help="Data set.")
    parser.add_argument("--size", type=int, metavar="N", help="Height and width of the images.")
    parser.add_argument("--components", type=int, default=16, metavar="N", help="Number of principal components.")
    args = parser.parse_args()
    dataset = load_dataset(DataConfig(data=args.data, size=args.size))
    assert dataset.test is not None
    train, test = (as_float(split.images[:]).reshape(len(split), -1) for split in (dataset.train, dataset.test))
    pca = PCA(args.components, random_state=0).fit(train)
    reconstructed = pca.inverse_transform(pca.transform(test)).clip(0, 1)
    shape = dataset.test.images.shape
    print(f"{np.mean(psnr(test.reshape(shape), reconstructed.reshape(shape))):.2f} dB over {len(test)} test images")


if __name__ == "__main__":
    main()
