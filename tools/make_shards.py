"""Folders of prompt shards: the same as `scaledreamer make-shards`."""

import sys

from scaledreamer.cli.make_shards import main

if __name__ == "__main__":
    sys.exit(main())
