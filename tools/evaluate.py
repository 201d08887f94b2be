"""Scores of a generator: the same as `scaledreamer evaluate`."""

import sys

from scaledreamer.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
