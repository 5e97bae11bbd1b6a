"""Small model with one condition of each kind, exported for the tests of the hosts."""

from pathlib import Path

import torch

from cvae.conditions import Condition
from cvae.config import Config, TrainConfig
from cvae.engine.checkpoint import save_weights
from cvae.exporters.onnx import export
from cvae.model_config import ModelConfig, Part
from cvae.models import build
from cvae.run import CONFIG, WEIGHTS

LABEL = Condition(name="label", kind="category", values=("a", "b", "c"), optional=True)
AGE = Condition(name="age", kind="number", low=0, high=10, unit="years", optional=True)
TRAITS = Condition(name="traits", kind="attributes", values=("beard", "hat"), optional=True)


def export_model(folder: Path, conditions: tuple[Condition, ...]) -> Path:
    """Export an untrained model. Its weights are large, so that every condition changes the image clearly."""
    folder.mkdir()
    torch.manual_seed(0)
    config = ModelConfig(
        image_shape=(1, 8, 8),
        latent_dim=4,
        conditions=conditions,
        architecture=Part(name="mlp", options={"hidden": [16]}),
        conditioning=Part(name="film") if conditions else None,
        likelihood=Part(name="bernoulli"),
        prior=Part(name="normal"),
    )
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape)
    training = TrainConfig(arch="mlp", prior="normal", conditional=bool(conditions))
    content = Config(cvae_version="0", data_license="none", model=config, training=training)
    (folder / CONFIG).write_text(content.to_json())
    save_weights(folder / WEIGHTS, model.state_dict())
    export(folder)
    return folder
