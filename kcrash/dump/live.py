"""The running system: /proc/kcore (fs/proc/kcore.c), an ELF core of memory that is still in use.

It has VMCOREINFO since Linux commit 23c85094fe18 ("proc/kcore: add vmcoreinfo
note to /proc/kcore") in v4.19, and physical addresses since 464920104bf7
("/proc/kcore: update physical address for kcore ram and text") in v4.11.
"""

from __future__ import annotations

import os
from pathlib import Path

from kcrash.dump.base import Dump
from kcrash.dump.elf import ElfDump
from kcrash.dump.source import FileSource
from kcrash.errors import KcrashError

KCORE = Path("/proc/kcore")
LOCKDOWN = Path("/sys/kernel/security/lockdown")


def open_live() -> Dump:
    """The memory of the system that kcrash runs on. Raises KcrashError, which says what is missing."""
    if reason := _refused():
        raise KcrashError(f"no dump given, and the running system cannot be read: {reason}")
    dump = ElfDump(FileSource(str(KCORE)))
    dump.info.live = True
    return dump


def _refused() -> str:
    """Why /proc/kcore cannot be read, "" if it can."""
    if not KCORE.exists():
        return f"there is no {KCORE} (a Linux kernel with CONFIG_PROC_KCORE has it, where /proc is mounted)"
    try:
        os.close(os.open(KCORE, os.O_RDONLY))
    except OSError as error:
        return f"{KCORE}: {error.strerror} ({_needed()})"
    return ""


def _needed() -> str:
    try:
        locked = "[none]" not in LOCKDOWN.read_text()
    except OSError:
        locked = False
    return "the kernel is locked down" if locked else "that takes root, with CAP_SYS_RAWIO"
