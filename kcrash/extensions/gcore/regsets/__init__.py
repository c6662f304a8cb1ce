"""Register sets, one file an architecture; importing a file registers its ports."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kcrash.extensions.gcore.regsets.base import Port, Regset, Unavailable, find_port, register_port

__all__ = ["Port", "Regset", "Unavailable", "find_port", "register_port"]

for _file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    if _file.stem != "base":
        import_module(f"{__name__}.{_file.stem}")
