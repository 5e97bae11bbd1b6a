"""Decoder and encoder modules to export, and their specs."""

from torch import Tensor, nn

from cvae.config import Config
from cvae.models import VAE
from cvae.models.likelihoods import Gaussian
from cvae.spec import Spec


class Decoder(nn.Module):
    """The decoder of a model: noise (B, Z) and conditions -> image (B, C, H, W) in [0, 1]."""

    outputs = ("image",)

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor, **conditions: Tensor) -> Tensor:
        return self.model.decode(noise, conditions or None)


class Encoder(nn.Module):
    """The encoder of a model: image (B, C, H, W) and conditions -> mean (B, Z), std (B, Z) in the noise space."""

    outputs = ("mean", "std")

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, **conditions: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(image, conditions or None)


ROLES: dict[str, type[Decoder] | type[Encoder]] = {"decoder": Decoder, "encoder": Encoder}


def build_spec(model: VAE, config: Config, role: str, *, name: str, weights: str, license: str | None) -> Spec:
    """Return the spec of a run's decoder or encoder.

    Args:
        model: model of the run.
        config: config of the run.
        role: "decoder" or "encoder".
        name: name of the run.
        weights: SHA-256 of the file from which the model's weights were loaded.
        license: license of the weights.
    """
    likelihood = model.likelihood
    return Spec(
        role=role,
        name=name,
        architecture=config.model.architecture.name,
        image_shape=config.model.image_shape,
        latent_dim=config.model.latent_dim,
        conditions=config.model.conditions,
        likelihood=config.model.likelihood.name,
        sigma=likelihood.log_sigma.detach().exp().item() if isinstance(likelihood, Gaussian) else None,
        prior=config.model.prior.name,
        data=config.training.data.partition(":")[0],  # "folder" for "folder:PATH", because a path is private
        data_license=config.data_license,
        weights=weights,
        license=license,
    )
