"""ScaleDreamer's released checkpoints become ours: the same as `scaledreamer convert-official`."""

import sys

from scaledreamer.cli.convert_official import main

if __name__ == "__main__":
    sys.exit(main())
