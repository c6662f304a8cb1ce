"""Feeds broken dumps to the readers: see README.md beside this file."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType

import numpy as np

if "--atheris" in sys.argv:  # must see the readers being imported
    import atheris

    with atheris.instrument_imports(include=["kcrash"]):
        import_module("kcrash.dump")

from kcrash.dump import _open_one
from kcrash.dump.base import HEAD, Dump, formats
from kcrash.dump.source import Source, unwrapped
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import KcrashError
from tests.build.containers import CONTAINERS, Memory
from tests.build.elf_core import ElfCore, Load
from tests.build.flattened import flattened, in_records
from tests.build.kdump_file import LZO, SNAPPY, ZLIB, ZSTD, KdumpFile
from tests.build.notes import VMCOREINFO_TEXT, usual_notes
from tests.build.pages import some_pages

SECONDS = 10
BYTES = 4 << 30
INTERESTING = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62,
               (1 << 64) - 1)  # fmt: skip
PFNS = np.array([*range(40), 0x200, 0x201, 1 << 30, (1 << 52) - 1], dtype=np.uint64)


class MemorySource(Source):
    """Bytes as a file."""

    def __init__(self, data: bytes) -> None:
        super().__init__("fuzzed", len(data))
        self._data = data

    def read_at(self, offset: int, n: int) -> bytes:
        return self._data[offset : offset + n] if offset >= 0 and n > 0 else b""


def use(dump: Dump, bulk: bool = True) -> None:
    """All that can be asked of a dump; ``bulk``: of many pages too, which takes most of the time."""
    parse_vmcoreinfo(dump.info.vmcoreinfo or b"")
    page = dump.info.page_size
    for address in (0, 0x1FFE, 0x3000, 0x200000, 29 * 4096, 1 << 40, (1 << 64) - 2, -1):
        dump.try_read(address, 5000)
    many = (lambda: dump.page_states(PFNS, page), lambda: dump.read_pages(PFNS, page))
    for call in (dump.ranges, *many) if bulk else ():
        with suppress(KcrashError):
            call()


def try_one(data: bytes, bulk: bool = True) -> bool:
    """Open and use what the bytes make; whether they opened. Raises what no reader may raise."""
    try:
        dump = _open_one(unwrapped(MemorySource(data))).checked()
    except (KcrashError, OSError):
        return False
    use(dump, bulk)
    return True


def seeds() -> dict[str, bytes]:
    """A small file of every format."""
    pages = some_pages(range(6))
    memory = Memory([(0, b"".join(pages.values())), (0x200000, b"h" * 4096)], [{"rax": 1, "cr3": 0x1000}])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, container in CONTAINERS.items():
            if " in " in name or name in ("raw", "sadump disk set") or "libvirt " in name:
                continue  # unpacked into the cache, or without any form, or of several files
            (Path(folder) / name).mkdir()
            found[name] = Path(container.write(Path(folder) / name, memory)[0]).read_bytes()
    found |= _variants()
    return found


def _variants() -> dict[str, bytes]:
    pages = some_pages(range(3, 12))
    kdump = KdumpFile(pages, {1}, codecs=(ZLIB, LZO, SNAPPY, ZSTD, 0))
    kdump.vmcoreinfo, kdump.notes, kdump.eraseinfo = VMCOREINFO_TEXT, usual_notes(), b"x\n"
    padded = KdumpFile(pages, layout="padded", order=">", machine="armv7l", notes=usual_notes())
    load = Load(0x3000, b"".join(pages.values()), memsz=40 * 4096, vaddr=0xC0003000)
    return {
        "kdump of all codecs": kdump.to_bytes(),
        "kdump padded": padded.to_bytes(),
        "kdump flattened": flattened(in_records(kdump.to_bytes(), 3000)),
        "elf with notes": ElfCore([load, Load(0x5000, b"z" * 10000)], usual_notes()).to_bytes(),
        "elf 32": ElfCore([load], usual_notes(), bits=32, order=">", xnum=True).to_bytes(),
    }


def mutated(data: bytes, places: Sequence[int], chance: random.Random) -> bytes:
    """``data`` changed in a few places, mostly where it is no page of memory."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        kind = chance.random()
        at = chance.choice(places) if chance.random() < 0.9 else chance.randrange(len(out))
        at = min(at, len(out) - 1)
        if kind < 0.35:
            out[at] = chance.randrange(256)
        elif kind < 0.75:
            width, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
            value = chance.choice(INTERESTING) + chance.choice((-1, 0, 0, 0, 1, 4096))
            out[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, order)  # type: ignore[arg-type]
        elif kind < 0.85:
            del out[chance.randrange(1, len(out) + 1) :]
        elif kind < 0.93:
            start = chance.choice(places)
            out[at : at + 64] = out[start : start + chance.choice((8, 64, 128))]
        else:
            out[at:at] = chance.randbytes(chance.choice((1, 4, 8)))
        if not out:
            return b"\0"
    return bytes(out)


def places_of(data: bytes) -> list[int]:
    """Offsets worth changing: all of the first 8 KiB that are not in a long run of zeros, some others."""
    head = [at for at in range(min(len(data), HEAD)) if data[max(at - 8, 0) : at + 8].strip(b"\0")]
    blocks = range(HEAD, len(data), 4096)
    return head + [at + inner for at in blocks for inner in range(64)] or [0]


def _late(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def by_chance(count: int, seed: int, only: str) -> None:
    """``count`` mutations, in turn of each seed."""
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, _late)  # libFuzzer has an alarm of its own
    files = {name: data for name, data in seeds().items() if only in name}
    places = {name: places_of(data) for name, data in files.items()}
    names, opened, start = sorted(files), 0, time.monotonic()
    for name in names:
        assert try_one(files[name]) or "vm" in name, f"the seed {name!r} does not open"
    for number in range(1, count + 1):
        name = names[number % len(names)]
        data = mutated(files[name], places[name], chance)
        signal.alarm(SECONDS)
        try:
            opened += try_one(data, bulk=chance.random() < 0.2)
        except Exception as error:
            path = Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}")
            path.write_bytes(data)
            print(f"{path}: mutation of {name!r}: {type(error).__name__}: {error}", flush=True)
        finally:
            signal.alarm(0)
        if number % 10000 == 0 or number == count:
            rate = number / (time.monotonic() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{number} inputs, {opened} opened, {rate:.0f} a second, peak {peak} MiB", flush=True)


def guided(folder: str, options: Sequence[str]) -> None:
    """Atheris's loop, on a corpus in ``folder``; ``options``: libFuzzer's."""
    import atheris

    Path(folder).mkdir(exist_ok=True)
    for name, data in seeds().items():
        (Path(folder) / hashlib.sha256(name.encode()).hexdigest()[:12]).write_bytes(data)
    argv = [sys.argv[0], folder, f"-timeout={SECONDS}", "-max_len=262144", *options]
    atheris.Setup(argv, lambda data: try_one(data))
    atheris.Fuzz()


def main() -> None:
    """See README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--only", default="", help="seeds whose name has this in it")
    parser.add_argument("--atheris", metavar="FOLDER")
    args, rest = parser.parse_known_args()
    assert formats()
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    print(f"seed {args.seed}", flush=True)
    guided(args.atheris, rest) if args.atheris else by_chance(args.count, args.seed, args.only)


if __name__ == "__main__":
    main()
