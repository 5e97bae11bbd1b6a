"""Train a VAE of pythae 0.1.2 on MNIST with its TrainingPipeline, and record its weights at the end of every epoch.

    python -m _peers.pythae_training START WEIGHTS mlp|resnet IMAGES EPOCHS SEED

The program does what pythae's own examples/scripts/training.py does with the settings of configs/mnist. IMAGES is a
.npy file with the images of MNIST's training set, uint8 (N, 1, 28, 28). A sixth of them are for evaluation.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pythae.models import VAE, VAEConfig
from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from _peers.recorder import Recorder

LATENT_DIM = 16


def create_model(kind: str) -> VAE:
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT_DIM, reconstruction_loss="mse")
    networks = (Encoder_ResNet_VAE_MNIST(config), Decoder_ResNet_AE_MNIST(config)) if kind == "resnet" else ()
    return VAE(config, *networks)


def main() -> None:
    start, weights, kind, images_path, epochs, seed = sys.argv[1:]
    recorder = Recorder(Path(weights), float(start))
    model = create_model(kind)

    class RecordWeights(TrainingCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            recorder.save(model)

    images = np.load(images_path) / 255.0
    count = len(images) * 5 // 6
    with TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=100,
            per_device_eval_batch_size=100,
            num_epochs=int(epochs),
            learning_rate=1e-3,
            seed=int(seed),
            no_cuda=True,
        )
        pipeline = TrainingPipeline(model=model, training_config=config)
        pipeline(train_data=images[:count], eval_data=images[count:], callbacks=[RecordWeights()])
        recorder.save(pipeline.trainer._best_model)


if __name__ == "__main__":
    main()
