"""Variational autoencoders composed of an architecture, a conditioning, a likelihood and a prior."""

from cvae.models.vae import VAE, Hierarchical, LatentHook, Posterior, Terms, build

__all__ = ["VAE", "Hierarchical", "LatentHook", "Posterior", "Terms", "build"]
