"""How long each part takes: `python -m tools.benchmark --help`."""
