"""Pages of docs/ that are written by programs: `python -m tools.docs.configuration`."""
