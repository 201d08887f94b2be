"""Other people's prompts become a corpus: the same as `scaledreamer import-prompts`."""

import sys

from scaledreamer.cli.import_prompts import main

if __name__ == "__main__":
    sys.exit(main())
