"""Generators: `forward(condition: GeneratorText, z=None) -> Scene`, one forward pass for a batch of prompts.

Each is one `nn.Module` with `has_noise`, whether it takes noise z ("batch noise_dim"), and `config`, its
constructor arguments.
"""
