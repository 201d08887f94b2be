"""Locating and reading model files, for priors, text encoders and generators."""
