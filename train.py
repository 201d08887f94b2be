"""Trains a generator: `deepspeed train.py --config configs/tiny.yaml`, or the same with python."""

import sys

from scaledreamer.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
