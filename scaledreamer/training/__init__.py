"""Training a generator: `step` is one training step, `loop` the run around it."""
