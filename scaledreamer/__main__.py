"""`python -m scaledreamer COMMAND`, the same as `scaledreamer COMMAND`."""

import sys

from scaledreamer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
