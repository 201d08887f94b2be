"""Training and scoring the tiny models: `python -m tools.tinyworld.train_prior --help`, and so on."""
