"""Training, assets and scores in minutes: the same as `scaledreamer demo`."""

import sys

from scaledreamer.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
