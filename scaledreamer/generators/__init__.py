"""Generators: `forward(condition: TextCondition, z=None) -> Scene`, one forward pass for a batch of prompts.

Each is one `nn.Module` with `has_noise`, whether it takes noise z, and `config`, its constructor arguments.
"""
