"""``python -m kcrash``."""

from __future__ import annotations

import sys

from kcrash.cli import main

if __name__ == "__main__":
    sys.exit(main())
