"""Reports which of the package's own files a command uses. Needs no torch."""

from __future__ import annotations

import os

from scaledreamer.home import expand_home


def say_shipped_config(name: str) -> None:
    """Prints which file of the package `--config` refers to, if there is no local file of this name."""
    from scaledreamer.config import find_config

    if not os.path.exists(expand_home(name, "--config")):
        print(f"config: {find_config(name)}, shipped with the package", flush=True)
