"""What it costs to open the dump of a machine of 1 TiB, and to find pages in it.

Makes a sparse kdump-compressed file (2^28 page frames, a quarter of them
dumped, in runs and single), and reads it in fresh processes, one a measurement:
so that the peak RSS is that of the measurement alone. Compares with
libkdumpfile where a Python with its bindings is given.

    python bench/open_1tib.py [--keep FILE] [--libkdumpfile /usr/bin/python3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from struct import pack

import numpy as np

PFNS = 1 << 28
BLOCK = 4096
LOOKUPS = 1000
TAIL = 4096
PAGE = (b"struct page of a large machine; " * 128)[:BLOCK]


def dumped_words() -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A quarter of all page frames: runs of whole words and single pages."""
    chance = np.random.default_rng(1)
    words = np.zeros(PFNS // 64, dtype=np.uint64)
    mixed = chance.integers(0, 1 << 64, len(words) // 4, dtype=np.uint64)
    kinds = chance.integers(0, 8, len(words) // 64)  # of 64 words each
    for kind, value in ((0, np.uint64((1 << 64) - 1)), (1, None), (2, None)):
        for at in np.flatnonzero(kinds == kind) * 64:
            words[at : at + 64] = value if value is not None else mixed[at // 8 : at // 8 + 64]
    return words


def write(path: Path) -> list[int]:
    """Make the file; the page frames whose descriptors it really has."""
    words = dumped_words()
    below = np.cumsum(np.bitwise_count(words), dtype=np.int64) - np.bitwise_count(words)
    total = int(below[-1]) + int(words[-1]).bit_count()
    bitmap = PFNS // 8
    table = BLOCK * 2 + 2 * bitmap
    data_at = table + 24 * total
    stored = zlib.compress(PAGE)
    descriptor = pack("<QIIQ", data_at, len(stored), 1, 0)
    picked = np.random.default_rng(2).choice(np.flatnonzero(words), LOOKUPS + 1, replace=False)
    lowest = [int(words[i]) & -int(words[i]) for i in picked]
    pfns = [int(i) * 64 + low.bit_length() - 1 for i, low in zip(picked, lowest, strict=True)]
    with path.open("wb") as out:
        out.write(_header(bitmap * 2 // BLOCK))
        out.seek(BLOCK)
        out.write(pack("<QII2Q", 0, 31, 0, 0, 0).ljust(80, b"\0") + pack("<3Q", 0, 0, PFNS))
        out.seek(BLOCK * 2)
        out.write(b"\xff" * bitmap + words.tobytes())
        for i in picked:
            out.seek(table + 24 * int(below[i]))
            out.write(descriptor)
        out.seek(table + 24 * (total - TAIL))
        out.write(descriptor * TAIL + stored)
    return pfns


def _header(bitmap_blocks: int) -> bytes:
    names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"big", b"6.1.0", b"#1", b"x86_64", b""))
    head = (b"KDUMP   " + pack("<i", 6) + names).ljust(408, b"\0")
    return head + pack("<qqIiiIIIIIIi", 1, 0, 1, BLOCK, 1, bitmap_blocks, PFNS & 0xFFFFFFFF, 0, 0, 0, 0, 1)


COMMON = """
import json, sys, time
path, pfns = sys.argv[1], json.loads(sys.argv[2])
def timed(name, call):
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    out[name] = [(time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3]
    return found
out = {}
"""
END = """
# Not getrusage(): its maximum starts with what the parent had.
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
out['peak RSS MiB'] = int(peak.split()[1]) / 1024
print(json.dumps(out))
"""
OURS = """
from kcrash.dump import open_dump
dump = timed('open', lambda: open_dump([path]))
"""
SCALAR = """
first = timed('first page', lambda: dump.read(max(pfns) << 12, 8))
timed('1000 random pages', lambda: [dump.read(pfn << 12, 8) for pfn in pfns])
timed('the same, cached', lambda: [dump.read(pfn << 12, 8) for pfn in pfns])
"""
MEASUREMENTS = {
    "one page at a time": OURS + SCALAR + "out['numpy'] = 'numpy' in sys.modules\n",
    "ranges of RAM": OURS + "timed('ranges', dump.ranges)\n",
    "in bulk": OURS
    + """
timed('import numpy', lambda: __import__('numpy'))
import numpy as np
run = np.arange(1 << 27, (1 << 27) + (1 << 20), dtype=np.uint64)
anywhere = np.random.default_rng(3).integers(0, 1 << 28, 1 << 20, dtype=np.uint64)
timed('1M page_states in a run', lambda: dump.page_states(run, 4096))
timed('1M page_states anywhere', lambda: dump.page_states(anywhere, 4096))
timed('read_pages of 1000', lambda: dump.read_pages(np.array(pfns, dtype=np.uint64), 4096))
""",
}
THEIRS = """
import kdumpfile
dump = timed('open', lambda: kdumpfile.kdumpfile(path))
read = lambda pfn: dump.read(kdumpfile.KDUMP_MACHPHYSADDR, pfn << 12, 8)
timed('first page', lambda: read(max(pfns)))
timed('1000 random pages', lambda: [read(pfn) for pfn in pfns])
timed('the same, cached', lambda: [read(pfn) for pfn in pfns])
"""


def measure(python: str, code: str, path: Path, pfns: list[int]) -> dict[str, object]:
    """Run a measurement in a process of its own."""
    argv = [python, "-c", COMMON + code + END, str(path), json.dumps(pfns)]
    result = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, object] = json.loads(result.stdout)
    return found


def show(title: str, found: dict[str, object]) -> None:
    """Print one measurement."""
    print(title)
    for name, value in found.items():
        if isinstance(value, list):
            print(f"  {name:26} {value[0]:10.2f} ms wall {value[1]:10.2f} ms CPU")
        else:
            print(f"  {name:26} {value if isinstance(value, bool) else format(value, '10.1f')}")


def main() -> None:
    """Make the file and print all measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="where to leave the file")
    parser.add_argument("--libkdumpfile", metavar="PYTHON", help="a Python that can import kdumpfile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "vmcore"
        pfns = write(path)
        print(f"{path.stat().st_size >> 20} MiB, on disk {path.stat().st_blocks >> 11} MiB")
        for title, code in MEASUREMENTS.items():
            show(f"kcrash, {title}", measure(sys.executable, code, path, pfns))
        if options.libkdumpfile:
            show("libkdumpfile", measure(options.libkdumpfile, THEIRS, path, pfns))


if __name__ == "__main__":
    main()
