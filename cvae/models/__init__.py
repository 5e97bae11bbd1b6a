"""One VAE, built from ready parts: architecture, conditioning, likelihood, prior."""

from cvae.models.vae import VAE, Hierarchical, Posterior, Terms, build

__all__ = ["VAE", "Hierarchical", "Posterior", "Terms", "build"]
