"""What will work, said before anything starts: `python tools/doctor.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scaledreamer.cli.doctor import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
