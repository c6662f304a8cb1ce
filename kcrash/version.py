"""The version, without asking the installed package's metadata (which takes longer than a command)."""

from __future__ import annotations

VERSION = "0.1.0"
