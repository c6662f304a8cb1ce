"""Which memory a core holds: vma_dump_size(), fs/coredump.c."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import KcrashError, MemoryFault
from kcrash.extensions.gcore.elf import PF_R, PF_W, PF_X, Load
from kcrash.linux.mm import (
    S_DAX,
    VM_DONTDUMP,
    VM_EXEC,
    VM_HUGETLB,
    VM_IO,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    Inode,
    Vma,
    file_inode,
    vma_path,
)
from kcrash.linux.paths import Path, task_root

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process
    from kcrash.extensions.gcore.regsets.base import Port
    from kcrash.session import Session

FILTER_SHIFT = 2  # MMF_DUMP_FILTER_SHIFT, include/linux/sched/coredump.h
ELF_MAGIC = b"\x7fELF"


class Filter(IntFlag):
    """Bits of /proc/PID/coredump_filter (Documentation/filesystems/proc.rst), and one of crash-gcore's."""

    ANON_PRIVATE = 1
    ANON_SHARED = 2
    MAPPED_PRIVATE = 4
    MAPPED_SHARED = 8
    ELF_HEADERS = 16
    HUGETLB_PRIVATE = 32
    HUGETLB_SHARED = 64
    DONTDUMP = 1 << 7  # of crash-gcore's -f: MADV_DONTDUMP memory too
    DAX_PRIVATE = 1 << 8
    DAX_SHARED = 1 << 9


GIVEN = 0xFF  # what -f can say


def process_filter(mm_flags: int) -> Filter:
    """The process's own filter, out of mm->flags."""
    bits = mm_flags >> FILTER_SHIFT & 0x1FF
    return Filter(bits & 0x7F | (bits & 0x180) << 1)


def chosen_filter(mm_flags: int, given: int | None) -> Filter:
    """The filter in force: ``given`` (-f) instead of the process's, but for DAX, of which -f says nothing."""
    own = process_filter(mm_flags)
    if given is None:
        return own
    return Filter(given & GIVEN) | own & (Filter.DAX_PRIVATE | Filter.DAX_SHARED)


class Mapping(NamedTuple):
    """What vma_dump_size() asks of a VMA.

    ``always``: special mappings such as the vdso; ``is_elf``: whether the first
    four bytes are an ELF file's, None where they cannot be read.
    """

    flags: int
    size: int
    pgoff: int
    has_file: bool
    always: bool
    anon_vma: bool
    dax: bool = False
    nlink: int = 1
    executable: bool = False
    is_elf: bool | None = False


def vma_dump_size(mapping: Mapping, filter: Filter, page_size: int = 4096) -> int:
    """How many bytes of a mapping the kernel would write, from its start."""
    if mapping.always:
        return mapping.size
    if mapping.flags & VM_DONTDUMP and not filter & Filter.DONTDUMP:
        return 0
    shared = bool(mapping.flags & VM_SHARED)
    if mapping.dax:
        return mapping.size if filter & (Filter.DAX_SHARED if shared else Filter.DAX_PRIVATE) else 0
    if mapping.flags & VM_HUGETLB:
        wanted = Filter.HUGETLB_SHARED if shared else Filter.HUGETLB_PRIVATE
        return mapping.size if filter & wanted else 0
    if mapping.flags & VM_IO:
        return 0
    if shared:
        wanted = Filter.MAPPED_SHARED if mapping.nlink else Filter.ANON_SHARED
        return mapping.size if filter & wanted else 0
    if mapping.anon_vma and filter & Filter.ANON_PRIVATE:
        return mapping.size
    if not mapping.has_file:
        return 0
    if filter & Filter.MAPPED_PRIVATE:
        return mapping.size
    return _elf_header_size(mapping, filter, page_size)


def _elf_header_size(mapping: Mapping, filter: Filter, page_size: int) -> int:
    """The first page of what looks like a program or a library tells a debugger what was mapped."""
    readable_start = mapping.pgoff == 0 and mapping.flags & VM_READ
    if not filter & Filter.ELF_HEADERS or not readable_start:
        return 0
    # Whether it is one is not known where the page is not in the dump: then its loss is worth reporting.
    return page_size if mapping.executable or mapping.is_elf in (True, None) else 0


class Segment(NamedTuple):
    """A VMA and how much of it the core holds; ``name``: of its file, None for anonymous memory."""

    vma: Vma
    size: int
    name: bytes | None

    def load(self) -> Load:
        """Its program header."""
        bits = ((VM_READ, PF_R), (VM_WRITE, PF_W), (VM_EXEC, PF_X))
        flags = sum(flag for bit, flag in bits if self.vma.flags & bit)
        return Load(self.vma.start, self.vma.end - self.vma.start, self.size, flags)


def make_segments(process: Process, port: Port, given: int | None) -> tuple[list[Segment], list[str]]:
    """The segments of a core, one a VMA, in the kernel's order; and what could not be found out."""
    return _Maker(process, given).make(port)


class _Maker:
    def __init__(self, process: Process, given: int | None) -> None:
        self.process = process
        self.session: Session = process.session
        self.filter = chosen_filter(process.mm.flags, given)
        self.problems = [str(error) for error in process.memory.errors]
        self.root = self._root()
        self.names: dict[int, bytes | None] = {}

    def make(self, port: Port) -> tuple[list[Segment], list[str]]:
        segments = [self.segment(vma) for vma in self.process.memory.vmas]
        try:
            gate = port.gate_vma(self.process)
        except KcrashError as error:
            self.problems.append(f"gate page: {error}")
            gate = None
        if gate is not None:
            segments.append(Segment(gate, gate.end - gate.start, None))
        return segments, self.problems

    def _root(self) -> Path | None:
        try:
            return task_root(self.session, self.process.dumper.address)
        except KcrashError as error:
            self.problems.append(f"root directory: {error}")
            return None

    def segment(self, vma: Vma) -> Segment:
        try:
            size = vma_dump_size(self.mapping(vma), self.filter, self.session.arch.page_size)
        except KcrashError as error:
            self.problems.append(f"VMA {vma.start:x}: {error}")
            size = 0
        return Segment(vma, size, self.name(vma))

    def name(self, vma: Vma) -> bytes | None:
        """As the process would see it; files that several VMAs map are looked up once."""
        if vma.file not in self.names:
            try:
                self.names[vma.file] = vma_path(self.session, vma, self.root)
            except KcrashError as error:
                self.problems.append(f"name of the file mapped at {vma.start:x}: {error}")
                self.names[vma.file] = None
        return self.names[vma.file]

    def mapping(self, vma: Vma) -> Mapping:
        """Raises KcrashError where the file's inode is not in the dump."""
        inode = file_inode(self.session, vma.file) if vma.file else None
        found = Mapping(
            vma.flags, vma.end - vma.start, vma.pgoff, inode is not None, self.always(vma), bool(vma.anon_vma)
        )
        if inode is None:
            return found
        return found._replace(
            dax=bool(inode.flags & S_DAX),
            nlink=inode.nlink,
            executable=bool(inode.mode & 0o111),
            is_elf=self.is_elf(vma, inode),
        )

    def always(self, vma: Vma) -> bool:
        """always_dump_vma(): mappings whose vm_ops name them, and old kernels' vdso (arch_vma_name())."""
        types, word = self.session.types, self.session.memory.word
        ops = "struct vm_operations_struct"
        if vma.ops and types.has(ops, "name") and word(vma.ops + types.offset(ops, "name")):
            return True
        if vma.file or not types.has("struct mm_struct", "context.vdso"):
            return False
        vdso = word(self.process.mm.address + types.offset("struct mm_struct", "context.vdso"))
        return bool(vdso) and vdso == vma.start

    def is_elf(self, vma: Vma, inode: Inode) -> bool | None:
        """Asked only where it decides something."""
        if vma.pgoff or not vma.flags & VM_READ or inode.mode & 0o111:
            return False
        try:
            return self.process.memory.read(vma.start, 4) == ELF_MAGIC
        except MemoryFault:
            return None
