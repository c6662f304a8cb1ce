"""Parts of gcore that need no dump: the choice of memory, XSAVE forms, layout of the file."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcrash.arch.x86_64 import PRSTATUS
from kcrash.extensions.gcore import core_name, filter_bits, vlevel
from kcrash.extensions.gcore.elf import Form, Load, make_layout, note_bytes
from kcrash.extensions.gcore.regsets import Port, register_port, x86_xstate
from kcrash.extensions.gcore.regsets.base import Note, Unavailable, UserRegisters
from kcrash.extensions.gcore.regsets.i386 import full_tags, user_desc
from kcrash.extensions.gcore.regsets.x86_xstate import COMPACTED, XstateLayout, legacy, to_uabi
from kcrash.extensions.gcore.segments import Filter, Mapping, chosen_filter, process_filter, vma_dump_size
from kcrash.linux.mm import VM_DONTDUMP, VM_EXEC, VM_HUGETLB, VM_IO, VM_READ, VM_SHARED, VM_WRITE
from tests.extensions.gcore.corefile import CoreFile
from tests.linux.synthetic import Kernel

# -- vma_dump_size()

RW = VM_READ | VM_WRITE
DEFAULT = Filter(0x33)
SIZE = 0x8000
ANON = Mapping(RW, SIZE, 0, has_file=False, always=False, anon_vma=True)
FILE = Mapping(VM_READ, SIZE, 0, has_file=True, always=False, anon_vma=False)
SHARED = FILE._replace(flags=RW | VM_SHARED)
EVERYTHING = Filter(0x3FF)


@pytest.mark.parametrize(
    ("mapping", "filter", "size"),
    [
        (ANON, DEFAULT, SIZE),
        (ANON, DEFAULT & ~Filter.ANON_PRIVATE, 0),
        (ANON._replace(anon_vma=False), EVERYTHING, 0),  # never written to: no page of its own
        (ANON._replace(flags=RW | VM_DONTDUMP), Filter(0x7F), 0),
        (ANON._replace(flags=RW | VM_DONTDUMP), DEFAULT | Filter.DONTDUMP, SIZE),
        (ANON._replace(flags=RW | VM_DONTDUMP | VM_IO, always=True), Filter(0), SIZE),  # vvar
        (ANON._replace(flags=RW | VM_IO), EVERYTHING, 0),
        (ANON._replace(flags=0), DEFAULT, SIZE),  # PROT_NONE
        (FILE, DEFAULT, 0),
        (FILE, DEFAULT | Filter.MAPPED_PRIVATE, SIZE),
        (FILE._replace(anon_vma=True), DEFAULT, SIZE),  # .data, relro
        (FILE._replace(anon_vma=True), Filter.MAPPED_SHARED, 0),
        (FILE._replace(executable=True), DEFAULT, 4096),
        (FILE._replace(is_elf=True), DEFAULT, 4096),
        (FILE._replace(is_elf=None), DEFAULT, 4096),
        (FILE._replace(is_elf=True, pgoff=1), DEFAULT, 0),
        (FILE._replace(is_elf=True, flags=VM_EXEC), DEFAULT, 0),
        (FILE._replace(is_elf=True), DEFAULT & ~Filter.ELF_HEADERS, 0),
        (SHARED, DEFAULT, 0),
        (SHARED, Filter.MAPPED_SHARED, SIZE),
        (SHARED, Filter.ANON_SHARED, 0),
        (SHARED._replace(nlink=0), DEFAULT, SIZE),  # shared memory is a file without a name
        (SHARED._replace(nlink=0), Filter.MAPPED_SHARED, 0),
        (SHARED._replace(nlink=0, executable=True), Filter.ELF_HEADERS, 0),
        (FILE._replace(flags=RW | VM_HUGETLB), DEFAULT, SIZE),
        (FILE._replace(flags=RW | VM_HUGETLB), Filter.MAPPED_PRIVATE, 0),
        (SHARED._replace(flags=RW | VM_SHARED | VM_HUGETLB, nlink=0), DEFAULT, 0),
        (SHARED._replace(flags=RW | VM_SHARED | VM_HUGETLB), Filter.HUGETLB_SHARED, SIZE),
        (FILE._replace(dax=True), Filter.DAX_PRIVATE, SIZE),
        (FILE._replace(dax=True), Filter(0xFF), 0),
        (SHARED._replace(dax=True), Filter.DAX_SHARED, SIZE),
    ],
)
def test_vma_dump_size(mapping: Mapping, filter: Filter, size: int) -> None:
    assert vma_dump_size(mapping, filter) == size


def test_filter_of_a_process() -> None:
    assert process_filter(0x33 << 2 | 1) == DEFAULT
    assert process_filter(0x1FF << 2) == EVERYTHING & ~Filter.DONTDUMP
    assert chosen_filter(0x33 << 2, None) == DEFAULT
    assert chosen_filter(0x133 << 2, 128) == Filter.DONTDUMP | Filter.DAX_SHARED


@pytest.mark.parametrize("text", ["256", "-1", "x", "", "0x100"])
def test_bad_filters(text: str) -> None:
    with pytest.raises(ValueError, match="bad filter"):
        filter_bits(text)
    assert filter_bits("0x7f") == 127
    assert vlevel("7") == 7


# -- XSAVE

# YMM and PKRU of a machine as QEMU shows one; component 11 (CET) is compacted right behind YMM.
LAYOUT = XstateLayout(
    offsets={2: 576, 9: 2688, 17: 2752},
    sizes={2: 256, 9: 8, 11: 16, 17: 64},
    aligned=frozenset({17}),
    user=0x20207,
    size=2816,
    sw_bytes=struct.pack("<Q", 0x20207).ljust(48, b"\0"),
)
INIT = struct.pack("<H22xI", 0x37F, 0x1F80).ljust(512, b"\0")


def _area(xfeatures: int, xcomp_bv: int, *parts: bytes) -> bytes:
    legacy_area = bytearray(b"\xaa" * 512)
    struct.pack_into("<H", legacy_area, 0, 0x27F)
    struct.pack_into("<I", legacy_area, 24, 0x1FA0)
    return bytes(legacy_area) + struct.pack("<QQ", xfeatures, xcomp_bv).ljust(64, b"\0") + b"".join(parts)


def test_compacted_offsets() -> None:
    assert LAYOUT.compacted(COMPACTED | 0x207) == {2: 576, 9: 832}
    assert LAYOUT.compacted(COMPACTED | 0x20A07) == {2: 576, 9: 832, 11: 840, 17: 896}


def test_compacted_becomes_standard() -> None:
    ymm, pkru, cet, tile = b"Y" * 256, b"P" * 8, b"C" * 16, b"T" * 64
    parts = (ymm, pkru, cet, bytes(896 - 856), tile)
    found = to_uabi(_area(0x20A07, COMPACTED | 0x20A07, *parts), INIT, LAYOUT, LAYOUT.user)
    assert len(found) == LAYOUT.size
    assert struct.unpack_from("<QQ", found, 512) == (0x20207, 0)  # CET is not in the user's mask
    assert found[576:832] == ymm
    assert found[2688:2696] == pkru
    assert found[2752:2816] == tile
    assert found[832:2688] == bytes(2688 - 832)
    assert found[464:512] == LAYOUT.sw_bytes


def test_standard_stays() -> None:
    area = bytearray(_area(7, 0).ljust(2816, b"\0"))
    area[576:832] = b"Y" * 256
    found = to_uabi(bytes(area), INIT, LAYOUT, LAYOUT.user)
    assert found[576:832] == b"Y" * 256
    assert found[:416] == bytes(area[:28]) + b"\xaa" * (416 - 28)
    assert found[416:464] == bytes(48)


def test_components_in_initial_state() -> None:
    """XSAVES and XSAVEOPT leave what was there before in memory: it must not show."""
    area = _area(2, COMPACTED | 7, b"old ymm".ljust(256, b"!"))
    found = to_uabi(area, INIT, LAYOUT, LAYOUT.user)
    assert found[576:832] == bytes(256)
    assert struct.unpack_from("<H", found)[0] == 0x37F
    assert found[32:160] == bytes(128)
    assert struct.unpack_from("<I", found, 24)[0] == 0x1FA0
    assert found[160:416] == b"\xaa" * 256
    assert legacy(area, INIT, 0) == INIT


def test_protection_keys_come_from_the_task() -> None:
    parts = (b"Y" * 256, b"P" * 8)
    found = to_uabi(_area(0x207, COMPACTED | 0x207, *parts), INIT, LAYOUT, LAYOUT.user, pkru=0x55555554)
    assert found[2688:2696] == struct.pack("<II", 0x55555554, 0)


@given(st.binary(max_size=1200), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_hostile_areas(tail: bytes, xfeatures: int, xcomp_bv: int) -> None:
    found = to_uabi(_area(xfeatures, xcomp_bv, tail), INIT, LAYOUT, LAYOUT.user)
    assert len(found) == LAYOUT.size


@pytest.mark.parametrize(("enabled", "there"), [(1, True), (0, True), (1, False)])
def test_shadow_stack(monkeypatch: pytest.MonkeyPatch, enabled: int, there: bool) -> None:
    """NT_X86_SHSTK is the pointer behind the two words' first, compacted right behind YMM and PKRU."""
    kernel = Kernel()
    kernel.struct("thread_struct", features="unsigned long")
    kernel.struct("task_struct", thread="struct thread_struct")
    task = kernel.new("struct task_struct", thread__features=enabled)
    xfeatures = 0x207 | there << 11
    area = _area(xfeatures, COMPACTED | 0xA07, bytes(264), struct.pack("<QQ", 3, 0x7FFF12345678))
    monkeypatch.setattr(x86_xstate, "xstate_layout", lambda session: LAYOUT)
    monkeypatch.setattr(x86_xstate, "fpu_state", lambda thread: x86_xstate.FpuState(area, None))
    thread = cast(Any, SimpleNamespace(session=kernel.session, task=SimpleNamespace(address=task)))
    if enabled and not there:
        with pytest.raises(Unavailable):
            x86_xstate.shadow_stack(thread)
    else:
        found = x86_xstate.shadow_stack(thread)
        assert found == (struct.pack("<Q", 0x7FFF12345678) if enabled else None)


def test_i387_tags() -> None:
    """As FSAVE would have written them (lib of the processor manual: valid, zero, special, empty)."""
    area = bytearray(512)
    struct.pack_into("<QH", area, 32, 1 << 63, 0x3FFF)  # st0: 1.0
    struct.pack_into("<QH", area, 48, 0, 0)  # st1: 0.0
    struct.pack_into("<QH", area, 64, 1 << 63, 0x7FFF)  # st2: infinity
    top = 5
    assert full_tags(0b11100000, top << 11, bytes(area)) == 0xFFFF0000 | 0b10_01_00_11_11_11_11_11


def test_user_desc() -> None:
    # A TLS segment as glibc makes it: base 0xf7d01940, limit 0xfffff pages, 32 bits, writable, useable.
    entry = 0xF7DF_F3D0_1940_FFFF
    number, base, limit, bits = struct.unpack("<4I", user_desc(12, entry))
    assert (number, base, limit) == (12, 0xF7D01940, 0xFFFFF)
    assert bits == 1 | 1 << 4 | 1 << 6


# -- the file

FORM = Form(8, "little", 62)


def _written(path: Path, loads: list[Load], form: Form = FORM) -> CoreFile:
    layout = make_layout(form, note_bytes(Note("CORE", 6, bytes(16)), "<"), loads)
    with path.open("wb") as file:
        file.write(layout.head)
        file.seek(layout.total - len(layout.tail))
        file.write(layout.tail)
        file.truncate(layout.total)
    return CoreFile(path)


def test_layout(tmp_path: Path) -> None:
    loads = [Load(0x1000, 0x3000, 0x1000, 5), Load(0x8000, 0x1000, 0, 4), Load(0x10000, 0x2000, 0x2000, 6)]
    core = _written(tmp_path / "x", loads)
    assert (core.type, core.machine, core.phnum, core.shoff) == (4, 62, 4, 0)
    first = core.loads[0].offset
    assert [s.offset for s in core.loads] == [first, first + 0x1000, first + 0x1000]
    assert [(s.address, s.memory_size, s.file_size, s.flags) for s in core.loads] == [tuple(x) for x in loads]
    assert first % 4096 == 0
    assert core.notes == [("AUXV", bytes(16))]


@pytest.mark.parametrize("count", [0xFFFD, 0xFFFE, 70000])
def test_more_segments_than_the_header_can_count(tmp_path: Path, count: int) -> None:
    loads = [Load(0x10000 + 0x2000 * n, 0x1000, 0x1000 if n % 1000 == 0 else 0, 6) for n in range(count)]
    core = _written(tmp_path / "x", loads)
    assert core.phnum == count + 1
    assert bool(core.shoff) == (count + 1 >= 0xFFFF)
    assert len(core.loads) == count
    done = subprocess.run(
        ["readelf", "-lW", str(tmp_path / "x")], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.count("  LOAD ") == count


def test_notes_are_padded() -> None:
    assert note_bytes(Note("KCRASH", 1, b"abcde"), "<") == (
        struct.pack("<3I", 7, 5, 1) + b"KCRASH\0\0" + b"abcde\0\0\0"
    )


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        (b"bash", "core.7.bash"),
        (b"../../x", "core.7._.._x"),
        (b"a/b c\n\x1b", "core.7.a_b_c__"),
        (b"kworker/0:1", "core.7.kworker_0:1"),
        (b"...", "core.7._"),
        (b"\xff\xfe", "core.7.__"),
        (b"", "core.7._"),
    ],
)
def test_names_are_cleaned(comm: bytes, name: str) -> None:
    assert core_name(7, comm) == name
    assert "/" not in core_name(7, comm)


def test_a_second_port_of_the_same_label_is_an_error() -> None:
    port = Port(
        arch="x86_64",
        kernels="v4.16 and later",
        machine=62,
        word_bytes=8,
        prstatus=PRSTATUS,
        accepts=lambda process: False,
        registers=lambda thread: UserRegisters({}, ""),
        regsets=(),
    )
    with pytest.raises(ValueError, match="registered twice"):
        register_port(port)
