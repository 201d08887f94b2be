"""Generators: `forward(condition: GeneratorText, z=None) -> Scene`, one forward pass for a batch of prompts.

Each is one `nn.Module`. `has_noise` says whether it takes noise z ("batch noise_dim"), and `config` has its
constructor arguments.
"""
