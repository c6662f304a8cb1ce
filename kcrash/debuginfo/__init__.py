"""Finding debuginfo: the vmlinux of a kernel and the files of its modules, by build-id."""

from __future__ import annotations

from kcrash.debuginfo.search import (
    DEFAULT_DIRS,
    Finder,
    Found,
    NotFound,
    Tried,
    find_kernel,
    find_module,
    may_hold_kernel,
)
from kcrash.debuginfo.unpack import unpack_boot_image
from kcrash.files.cache import Cache
from kcrash.files.unpack import Progress

__all__ = [
    "DEFAULT_DIRS",
    "Cache",
    "Finder",
    "Found",
    "NotFound",
    "Progress",
    "Tried",
    "find_kernel",
    "find_module",
    "may_hold_kernel",
    "unpack_boot_image",
]
