"""The corpora in data/prompts: `python -m tools.corpora.make_prompts --help`."""
