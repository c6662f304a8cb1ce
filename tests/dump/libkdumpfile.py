"""libkdumpfile as a judge, through ctypes: its own Python module does not open dumps of several files."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kcrash.dump.base import PRESENT, Dump

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "libkdumpfile.so.10"
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
# libkdumpfile/kdumpfile.h, addrxlat.h: address spaces and statuses.
SPACES = {"KPHYSADDR": 0, "MACHPHYSADDR": 1}
# The CRC of each page asked for, or null where there is none. In a process of its own: a library that
# breaks on a file must not break the tests.
_SCRIPT = """
import ctypes, json, os, sys, zlib
OK, NODATA, EOF = 0, 3, 7
lib = ctypes.CDLL(sys.argv[1])
lib.kdump_new.restype = ctypes.c_void_p
lib.kdump_get_err.restype = ctypes.c_char_p
lib.kdump_get_err.argtypes = [ctypes.c_void_p]
lib.kdump_open_fdset.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.POINTER(ctypes.c_int)]
lib.kdump_read.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p,
                           ctypes.POINTER(ctypes.c_size_t)]
context = lib.kdump_new()
files = [os.open(path, os.O_RDONLY) for path in sys.argv[3:]]
status = lib.kdump_open_fdset(context, len(files), (ctypes.c_int * len(files))(*files))
if status != OK:
    sys.exit('libkdumpfile: %s' % lib.kdump_get_err(context).decode())
asked, found = json.load(sys.stdin), []
page = ctypes.create_string_buffer(asked['size'])
for pfn in asked['pfns']:
    size = ctypes.c_size_t(asked['size'])
    status = lib.kdump_read(context, int(sys.argv[2]), pfn * asked['size'], page, ctypes.byref(size))
    if status not in (OK, NODATA, EOF):
        sys.exit('libkdumpfile: page %#x: %s' % (pfn, lib.kdump_get_err(context).decode()))
    found.append(zlib.crc32(page.raw) if status == OK else None)
print(json.dumps(found))
"""


def library() -> Path:
    """The library; skips the test where there is none."""
    for folder in FOLDERS:
        if (path := Path(folder, NAME)).exists():
            return path
    pytest.skip(f"{NAME} is not installed: pages are compared with no other reader")


def same_pages(
    dump: Dump, files: Sequence[str | Path], pfns: NDArray[np.uint64], space: str = "MACHPHYSADDR"
) -> int:
    """How many of these pages libkdumpfile has too; fails unless it has the same ones with the same bytes.

    ``space``: the address space to read, by libkdumpfile's name. Skips the test where it is not installed.
    """
    asked = json.dumps({"pfns": pfns.tolist(), "size": 4096})
    argv = [sys.executable, "-c", _SCRIPT, str(library()), str(SPACES[space]), *map(str, files)]
    done = subprocess.run(argv, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data, states = dump.read_pages(pfns, 4096)
    pages = zip(data, states.tolist(), strict=True)
    ours = [zlib.crc32(row) if state == PRESENT else None for row, state in pages]
    assert ours == json.loads(done.stdout)
    return sum(crc is not None for crc in ours)
