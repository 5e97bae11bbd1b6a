"""Priors p(z), as invertible maps between the latent space and standard normal noise."""

from cvae.models.priors.base import Normal, Prior, PriorTerms, normal_kl, normal_log_prob

__all__ = ["Normal", "Prior", "PriorTerms", "normal_kl", "normal_log_prob"]
