"""ELF vmcores against the memory that they were made of."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kcrash.dump.base import Note, PhysicalRange, VirtualRange
from kcrash.dump.scan import vmcoreinfo_candidates
from kcrash.errors import BadFormat, FaultReason, MemoryFault
from tests.build.elf_core import ElfCore, Load
from tests.build.notes import VMCOREINFO_TEXT, usual_notes
from tests.dump.helpers import check_bulk, opened

LOW = random.Random(1).randbytes(5 * 4096)
HIGH = random.Random(2).randbytes(3 * 4096)


def core(**options: object) -> ElfCore:
    loads = [Load(0x1000, LOW, vaddr=0xC0001000), Load(0x100000, HIGH, memsz=5 * 4096)]
    options.setdefault("notes", usual_notes())
    return ElfCore(loads, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("xnum", [False, True])
def test_forms(tmp_path: Path, bits: int, order: str, xnum: bool) -> None:
    dump = opened(tmp_path, core(bits=bits, order=order, xnum=xnum, machine=22).to_bytes())
    info = dump.info
    assert (info.format, info.word_bits, info.machine) == ("ELF", bits, 22)
    assert info.byte_order == ("little" if order == "<" else "big")
    assert info.notes == usual_notes()
    assert info.vmcoreinfo == VMCOREINFO_TEXT.rstrip(b"\0")
    assert (info.utsname.release, info.time) == ("6.1.0-test", 1700000000.0)
    assert info.virtual_ranges == [VirtualRange(0xC0001000, 5 * 4096, 0x1000)]
    assert dump.ranges() == [PhysicalRange(0x1000, 0x6000), PhysicalRange(0x100000, 0x105000)]
    assert dump.read(0x1000, len(LOW)) == LOW
    assert dump.read(0x1FFF, 3) == LOW[0xFFF:0x1002]
    assert dump.read(0x100000, 5 * 4096) == HIGH + bytes(2 * 4096)
    check_bulk(dump, [*range(10), *range(0xFE, 0x108), 2, 2, 1 << 51], 4096)


def test_missing(tmp_path: Path) -> None:
    dump = opened(tmp_path, core().to_bytes())
    for address, size, failed in ((0, 4, 0), (0x5FF0, 0x20, 0x6000), (1 << 60, 1, 1 << 60), (-1, 1, -1)):
        with pytest.raises(MemoryFault) as caught:
            dump.read(address, size)
        assert (caught.value.address, caught.value.reason) == (failed, FaultReason.NOT_IN_DUMP)
    assert dump.read(0x1000, 0) == b""


def test_overlaps_and_neighbours(tmp_path: Path) -> None:
    """File bytes win over zero-filled tails, earlier headers over later ones; neighbours read as one."""
    loads = [
        Load(0x2000, b"a" * 0x1000, memsz=0x3000),
        Load(0x2800, b"b" * 0x1000),
        Load(0x1800, b"c" * 0x1000),
        Load(0x5000, b"d" * 0x800),
        Load(0x5800, b"e" * 0x800),
    ]
    dump = opened(tmp_path, ElfCore(loads).to_bytes())
    expected = b"c" * 0x800 + b"a" * 0x1000 + b"b" * 0x800 + bytes(0x1800) + b"d" * 0x800 + b"e" * 0x800
    assert dump.read(0x1800, len(expected)) == expected
    assert dump.ranges() == [PhysicalRange(0x1800, 0x6000)]
    check_bulk(dump, list(range(8)), 4096)
    check_bulk(dump, list(range(4)), 8192)


def test_absurd_sizes(tmp_path: Path) -> None:
    """A wild length from the dump must not become an allocation."""
    dump = opened(tmp_path, ElfCore([Load(0, b"x" * 4096, memsz=1 << 62)]).to_bytes())
    for address in (0, 8192):
        with pytest.raises(MemoryFault, match=r"bytes wanted"):
            dump.read(address, 1 << 61)


def test_nothing_after_a_zero_tail(tmp_path: Path) -> None:
    dump = opened(tmp_path, ElfCore([Load(0, b"x" * 16, memsz=64)]).to_bytes())
    assert dump.read(8, 16) == b"x" * 8 + bytes(8)
    assert dump.try_read(60, 8) is None


@pytest.mark.parametrize("align", [4, 8])
def test_note_alignment(tmp_path: Path, align: int) -> None:
    notes = [Note("CORE", 1, b"x" * 335), Note("QEMU", 0, b"q" * 433), *usual_notes()]
    info = opened(tmp_path, core(notes=notes, note_align=align).to_bytes()).info
    assert info.notes == notes
    assert info.details["qemu"]


@pytest.mark.parametrize("vaddr", [0, (1 << 64) - 1, 0x1000, (1 << 64) - 4096])
def test_virtual_addresses_that_say_nothing(tmp_path: Path, vaddr: int) -> None:
    dump = opened(tmp_path, ElfCore([Load(0x1000, LOW, vaddr=vaddr)]).to_bytes())
    assert dump.info.virtual_ranges == []


def test_segment_without_physical_address(tmp_path: Path) -> None:
    """/proc/kcore has them for vmalloc and modules."""
    loads = [Load((1 << 64) - 1, b"m" * 4096, vaddr=0xFFFFFFFFC0000000), Load(0, LOW)]
    dump = opened(tmp_path, ElfCore(loads).to_bytes())
    assert dump.ranges() == [PhysicalRange(0, len(LOW))]


def test_incomplete_flag(tmp_path: Path) -> None:
    assert opened(tmp_path, core(flags=1).to_bytes()).info.incomplete


def test_truncated(tmp_path: Path) -> None:
    data = core().to_bytes()
    dump = opened(tmp_path, data[: -len(HIGH) + 5000])
    assert dump.read(0x100000, 5000) == HIGH[:5000]
    with pytest.raises(MemoryFault) as caught:
        dump.read(0x101000, 4096)
    assert (caught.value.address, caught.value.reason) == (0x100000 + 5000, FaultReason.TRUNCATED)
    check_bulk(dump, [*range(10), *range(0xFE, 0x108)], 4096)


@pytest.mark.parametrize("size", [5, 20, 63, 64, 100, 64 + 3 * 56 - 1])
def test_cut_headers(tmp_path: Path, size: int) -> None:
    with pytest.raises(BadFormat, match=r"ends within|end beyond"):
        opened(tmp_path, core().to_bytes()[:size])


def test_phnum_lies(tmp_path: Path) -> None:
    data = bytearray(core().to_bytes())
    data[56:58] = b"\xfe\xff"
    with pytest.raises(BadFormat, match="65534 program headers"):
        opened(tmp_path, bytes(data))
    data[56:58] = b"\0\0"
    with pytest.raises(BadFormat, match="without program headers"):
        opened(tmp_path, bytes(data))


def test_core_of_a_process(tmp_path: Path) -> None:
    notes = [Note("CORE", 1, bytes(336)), Note("CORE", 6, bytes(16))]
    with pytest.raises(BadFormat, match="of a process"):
        opened(tmp_path, core(notes=notes).to_bytes())


def test_no_memory(tmp_path: Path) -> None:
    with pytest.raises(BadFormat, match="without memory"):
        opened(tmp_path, ElfCore([], usual_notes()).to_bytes())


def test_address_wrap(tmp_path: Path) -> None:
    """A segment may claim to go beyond the last address."""
    dump = opened(tmp_path, ElfCore([Load((1 << 64) - 0x2000, b"x" * 0x1000, memsz=1 << 63)]).to_bytes())
    assert dump.read((1 << 64) - 0x2000, 4) == b"xxxx"
    check_bulk(dump, [(1 << 52) - 2, (1 << 52) - 1], 4096)


def test_numpy_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(core().to_bytes())
    code = (
        "import sys, kcrash.dump as d; x = d.open_dump(sys.argv[1:]); x.read(0x1000, 9000); x.ranges();"
        "sys.exit('numpy' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code, path], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("memsz", [1 << 55, 1 << 63, (1 << 64) - 1])
def test_nonsense_sizes(tmp_path: Path, memsz: int) -> None:
    """A segment of more memory than there is must neither hide the others nor be searched to its end."""
    loads = [Load(0x1000, LOW), Load(0x200000, HIGH, memsz=memsz)]
    dump = opened(tmp_path, ElfCore(loads).to_bytes())
    assert dump.read(0x1000, len(LOW)) == LOW
    assert dump.read(0x200000, len(HIGH)) == HIGH
    assert not list(vmcoreinfo_candidates(dump))
    assert dump.data_ranges() == [PhysicalRange(0x1000, 0x6000), PhysicalRange(0x200000, 0x203000)]


def test_nonsense_file_sizes(tmp_path: Path) -> None:
    data = bytearray(ElfCore([Load(0x1000, LOW), Load(0x200000, HIGH)]).to_bytes())
    at = 64 + 2 * 56 + 32  # p_filesz and p_memsz of the second PT_LOAD
    data[at : at + 16] = ((1 << 64) - 4096).to_bytes(8, "little") * 2
    dump = opened(tmp_path, bytes(data))
    assert dump.read(0x200000, len(HIGH)) == HIGH
    assert dump.ranges()[-1] == PhysicalRange(0x200000, 0x203000)
    assert not list(vmcoreinfo_candidates(dump))
