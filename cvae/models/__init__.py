"""One VAE, built from ready parts: architecture, conditioning, likelihood, prior."""

from cvae.models.vae import VAE, Terms, build

__all__ = ["VAE", "Terms", "build"]
