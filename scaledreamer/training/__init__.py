"""Training a generator: `step` is the science, `loop` the run around it, the rest is plumbing."""
