"""Variational autoencoders composed of an architecture, a conditioning, a likelihood and a prior."""

from cvae.models.vae import VAE, Hierarchical, Posterior, Terms, build

__all__ = ["VAE", "Hierarchical", "Posterior", "Terms", "build"]
