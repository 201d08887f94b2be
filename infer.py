"""Prompts in, textured 3D assets out: `python infer.py --prompt "a red-eyed tree frog"`."""

import sys

from scaledreamer.cli.infer import main

if __name__ == "__main__":
    sys.exit(main())
