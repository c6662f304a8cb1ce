"""kcrash's real command line around a kernel that has one page size and no symbols: run as a program."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import kcrash.cli

SYMBOLS = {"jiffies": 0xFFFFFFFF82007980}


def _open(args: Any) -> Any:
    level = SimpleNamespace(shift=12)
    return SimpleNamespace(
        close=lambda: None,
        vmlinux=SimpleNamespace(path="/nonexistent", build_id=None),
        kernel_name="/nonexistent",
        build_id=None,
        live=False,
        dump=SimpleNamespace(path="/nonexistent", cut=False, missing=""),
        symbols=SimpleNamespace(find=SYMBOLS.get, find_kernel=SYMBOLS.get, all=lambda: iter(())),
        types=SimpleNamespace(find=lambda kind, name: None, names=lambda kind: iter(("task_struct",))),
        arch=SimpleNamespace(word_bits=64, byte_order="little"),
        layout=SimpleNamespace(paging=SimpleNamespace(levels=[level])),
    )


if __name__ == "__main__":
    kcrash.cli._open = _open
    sys.exit(kcrash.cli.main())
