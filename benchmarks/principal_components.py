"""How well images come back from their principal components: what a linear code of as many numbers can do.

    python benchmarks/principal_components.py --data folder:cars --size 64 --components 256

Prints the PSNR, the mean over the test images, as `cvae evaluate` does for a model.
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
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int)
    parser.add_argument("--components", type=int, default=16)
    args = parser.parse_args()
    dataset = load_dataset(DataConfig(data=args.data, size=args.size))
    assert dataset.test is not None
    train, test = (as_float(part.images[:]).reshape(len(part), -1) for part in (dataset.train, dataset.test))
    pca = PCA(args.components, random_state=0).fit(train)
    back = pca.inverse_transform(pca.transform(test)).clip(0, 1)
    shape = dataset.test.images.shape
    print(f"{np.mean(psnr(test.reshape(shape), back.reshape(shape))):.2f} dB over {len(test)} test images")


if __name__ == "__main__":
    main()
