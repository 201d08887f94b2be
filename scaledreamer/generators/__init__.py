"""Generators: `forward(condition: GeneratorText, z=None) -> Scene`, one forward pass for a batch of prompts.

Each is one `nn.Module` with `has_noise`, whether it takes noise z ("batch noise_dim"), `config`, its
constructor arguments, and `ways_of_running`, those of them that weights do not depend on.
"""
