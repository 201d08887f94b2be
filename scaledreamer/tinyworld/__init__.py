"""A small procedural world with ground truth: captions, the objects they mean, and a renderer."""
