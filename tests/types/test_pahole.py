"""Layouts of structs against pahole's: 300 random ones of each lab kernel, from BTF and from DWARF."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from kcrash.symbols.elffile import ElfFile
from kcrash.types.btf import BtfSource
from kcrash.types.dwarf import DwarfSource
from kcrash.types.model import ArrayType, CompoundType, PointerType, Type
from kcrash.types.source import TypeSource
from tests.lab import cache as lab_cache
from tests.lab import kernels

pytestmark = pytest.mark.lab
COUNT = 300


class Line(NamedTuple):
    """A member: ``size`` in bytes; ``bits``: 0 unless it is a bit-field, and then ``size`` does not count."""

    depth: int
    name: str
    bit_offset: int
    size: int
    bits: int


@pytest.fixture(scope="module", params=tuple(kernels.SUITES))
def vmlinux(request: pytest.FixtureRequest) -> Path:
    """A kernel's ELF file."""
    if not shutil.which("pahole"):
        pytest.skip("NO pahole: no layout is compared with it")
    if not (lab_cache.root() / "kernels" / f"{request.param}.json").exists():
        pytest.skip(f"NO LAB: python -m tests.lab --kernel {request.param} makes it")
    return kernels.kernel(request.param).vmlinux


def pahole(vmlinux: Path, *words: str) -> str:
    """What pahole prints; an old one complains of BTF kinds that are newer than it, and goes on."""
    argv = ["pahole", "-F", "btf", *words, str(vmlinux)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True).stdout


@cache
def theirs(vmlinux: Path) -> dict[str, tuple[int, list[Line]]]:
    """``name -> (size, members)`` of random structs; names that two structs share are left out."""
    listed = Counter(line.split("\t")[0] for line in pahole(vmlinux, "-s").splitlines())
    names = sorted(name for name, count in listed.items() if count == 1)
    chosen = random.Random(kernel_of(vmlinux)).sample(names, COUNT + COUNT // 4)
    text = pahole(vmlinux, "--suppress_force_paddings", "-C", ",".join(chosen))
    parts = re.split(r"^(?=(?:struct|union) \w+ \{)", text, flags=re.M)[1:]
    assert len(parts) == len(chosen)
    structs = [part for part in parts if part.startswith("struct")]  # -s lists unions too
    return dict(map(parse, structs[:COUNT]))


def kernel_of(vmlinux: Path) -> str:
    """The release: what makes the choice of structs the same each time."""
    return next(part for part in vmlinux.parts if re.match(r"\d+\.\d+-", part))


OFFSET = re.compile(r"/\* +(\d+)(?:: *(\d+))? +(\d+) +\*/")
NAME = re.compile(r"\(\**(\w+)(?:\[\d*\])*\)\(|(\w+)(?:\[\d*\])*(?: *:(\d+))?$")


def parse(text: str) -> tuple[str, tuple[int, list[Line]]]:
    """A struct of pahole's output."""
    head = re.search(r"^struct (\w+) \{", text, re.M)
    size = re.search(r"^\t/\* size: (\d+)", text, re.M)
    assert head and size, text
    return head[1], (int(size[1]), list(filter(None, map(parse_line, text.splitlines()))))


def parse_line(line: str) -> Line | None:
    """A member's line; None for any other one."""
    place = OFFSET.search(line)
    if not place or ";" not in line[: place.start()]:
        return None
    text = re.sub(r" *__attribute__\(\(.*?\)+(?=[ ;])", "", line[: place.start()]).strip().rstrip("; ")
    depth = len(line) - len(line.lstrip("\t"))
    name = NAME.search(text)
    offset, bit, size = int(place[1]), int(place[2] or 0), int(place[3])
    bits = int(name[3] or 0) if name and place[2] else 0
    return Line(depth, (name[1] or name[2]) if name else "", offset * 8 + bit, 0 if bits else size, bits)


def lines(compound: CompoundType, depth: int = 1, start: int = 0) -> Iterator[Line]:
    """Ours, in pahole's order: what is in an unnamed struct stands before it."""
    for member in compound.members:
        at = start + member.bit_offset
        inner, pointed = unnamed(member.type)
        if inner is not None:
            yield from lines(inner, depth + 1, 0 if pointed else at)
        yield Line(depth, member.name, at, 0 if member.bit_size else member.type.size, member.bit_size)


def unnamed(type_: Type) -> tuple[CompoundType | None, bool]:
    """The struct that is written out where a member of this type stands, and whether that points to it."""
    pointed = False
    while isinstance(type_, (ArrayType, PointerType)):
        pointed = pointed or isinstance(type_, PointerType)
        type_ = type_.target
    return (type_ if isinstance(type_, CompoundType) and not type_.name else None), pointed


def different(source: TypeSource, vmlinux: Path) -> list[str]:
    """Names of the structs whose layouts differ, with the first line that does."""
    wrong = []
    for name, (size, members) in theirs(vmlinux).items():
        found = source.find("struct", name)
        if not isinstance(found, CompoundType) or not found.complete:
            wrong.append(f"{name}: {found!r}")
            continue
        ours = [Line(-1, "", 0, found.size, 0), *lines(found)]
        pairs = zip([Line(-1, "", 0, size, 0), *members, None], [*ours, None], strict=False)
        wrong += [f"{name}: pahole {pair[0]}, kcrash {pair[1]}" for pair in pairs if pair[0] != pair[1]][:1]
    return wrong


def test_there_is_something_to_compare(vmlinux: Path) -> None:
    found = theirs(vmlinux)
    members = [line for _size, lines in found.values() for line in lines]
    assert len(found) == COUNT and len(members) > 1500
    assert sum(line.bits > 0 for line in members) > 20 and sum(line.depth > 1 for line in members) > 100


def test_btf(vmlinux: Path) -> None:
    blob = ElfFile(str(vmlinux)).section_data(".BTF")
    assert blob is not None
    assert different(BtfSource(blob, str(vmlinux)), vmlinux) == []


def test_dwarf(vmlinux: Path) -> None:
    assert different(DwarfSource(vmlinux), vmlinux) == []
