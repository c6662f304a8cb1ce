"""Address spaces of processes: mm_struct, its VMAs and what they map (include/linux/mm_types.h, mm.h)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.linux.maple import Range, for_each_range
from kcrash.linux.paths import Path, file_path
from kcrash.memory.space import PagedSpace

if TYPE_CHECKING:
    from kcrash.session import Session

MM = "struct mm_struct"
VMA = "struct vm_area_struct"
MAX_VMAS = 1 << 22  # vm.max_map_count is an int, its default 65530

# Flags of a VMA that have the same bit in every kernel (include/linux/mm.h).
VM_READ, VM_WRITE, VM_EXEC, VM_SHARED = 1, 2, 4, 8
VM_GROWSDOWN, VM_PFNMAP, VM_LOCKED, VM_IO = 0x100, 0x400, 0x2000, 0x4000
VM_HUGETLB = 0x00400000
# Linux commit 0103bd16fb90 ("mm: prepare VM_DONTDUMP for using in drivers") in v3.7.
VM_DONTDUMP = 0x04000000
S_DAX = 1 << 13  # include/linux/fs.h, inode->i_flags


@dataclass(frozen=True, slots=True)
class Vma:
    """A mapping ``[start, end)``.

    ``address``: of its vm_area_struct; ``flags``: VM_*; ``pgoff``: of ``start`` in
    ``file``, in pages; ``file``: its struct file or 0; ``ops``: its
    vm_operations_struct, 0 for anonymous memory; ``anon_vma``: nonzero once
    the process has private pages of its own in it.
    """

    address: int
    start: int
    end: int
    flags: int
    pgoff: int
    file: int
    ops: int
    anon_vma: int

    @property
    def permissions(self) -> str:
        """As /proc/PID/maps shows them: ``rwxp``."""
        bits = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
        return "".join(c if self.flags & bit else "-" for bit, c in bits) + "ps"[bool(self.flags & VM_SHARED)]


@dataclass(frozen=True, slots=True)
class Mm:
    """A process's address space.

    ``address``: of its mm_struct; ``pgd``: kernel address of the top page table;
    ``flags``: MMF_*; ``binfmt``: the struct linux_binfmt it was started by.
    """

    address: int
    pgd: int
    flags: int
    map_count: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    binfmt: int
    exe_file: int
    auxv: bytes


def read_mm(session: Session, address: int) -> Mm:
    """Decode the mm_struct at ``address``. Raises MemoryFault."""
    types = session.types
    # From v6.18 on the word is the first of a bitmap (mm_flags_t); at first beside the old name.
    flags = types.first_member(MM, ("flags", "_flags")) or "flags"
    exe = types.first_member(MM, ("exe_file",)) or "binfmt"
    reader = types.reader(
        MM, "pgd", "map_count", "arg_start", "arg_end", "env_start", "env_end", "binfmt", exe
    )
    base = address & session.word_mask
    pgd, count, *arguments, binfmt, exe_file = reader(session.memory.read(base + reader.start, reader.size))
    auxv = types.compound(MM).path("saved_auxv")
    data = session.memory.read(base + auxv.offset, min(auxv.type.size, 4096))
    word = session.memory.word(base + types.offset(MM, flags))
    start, end, env_start, env_end = arguments
    return Mm(address, pgd, word, count, start, end, env_start, env_end, binfmt, exe_file, data)


# -- mappings


def _vma_reader(session: Session) -> tuple[str, ...]:
    # Linux commit bc292ab00f6c ("mm: introduce vma->vm_flags wrapper functions") in v6.3 made an
    # anonymous union of the flags: the name vm_flags is still there.
    return ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "vm_file", "vm_ops", "anon_vma")


def read_vma(session: Session, address: int) -> Vma:
    """Decode the vm_area_struct at ``address``. Raises MemoryFault."""
    reader = session.types.reader(VMA, *_vma_reader(session))
    return Vma(address, *reader(session.memory.read(address + reader.start, reader.size)))


def for_each_vma(session: Session, mm: int) -> Iterator[Vma | KcrashError]:
    """The VMAs of the mm_struct at ``mm``, in order of address; what cannot be read comes as its error.

    By the maple tree since Linux commit 763ecb035029 ("mm: remove the vma linked list") in v6.1.
    """
    source = _by_tree if session.types.has(MM, "mm_mt") else _by_list
    end = 0
    for found in source(session, mm):
        if isinstance(found, Vma):
            problem = _problem(session, found, end)
            if problem is not None:
                yield problem
                continue
            end = found.end
        yield found


def _problem(session: Session, vma: Vma, above: int) -> KcrashError | None:
    page = session.arch.page_size - 1
    inside = above <= vma.start < vma.end <= session.layout.paging.user_end
    if inside and not (vma.start | vma.end) & page:
        return None
    return CorruptData(f"VMA {vma.address:x} claims {vma.start:x} to {vma.end:x}")


def _by_tree(session: Session, mm: int) -> Iterator[Vma | KcrashError]:
    for found in for_each_range(session, mm + session.types.offset(MM, "mm_mt")):
        if not isinstance(found, Range):
            yield found
            continue
        try:
            yield read_vma(session, found.entry)
        except MemoryFault as fault:
            yield fault


def _by_list(session: Session, mm: int) -> Iterator[Vma | KcrashError]:
    types, word = session.types, session.memory.word
    try:
        seen: set[int] = set()
        address = word(mm + types.offset(MM, "mmap"))
        while address:
            if address in seen or len(seen) > MAX_VMAS:
                yield CorruptData(f"the list of VMAs of mm {mm:x} loops at {address:x}")
                return
            seen.add(address)
            yield read_vma(session, address)
            address = word(address + types.offset(VMA, "vm_next"))
    except MemoryFault as fault:
        yield fault


def vma_path(session: Session, vma: Vma, root: Path | None = None) -> bytes | None:
    """The name of the file that a VMA maps; None for anonymous memory. Raises KcrashError."""
    return file_path(session, vma.file, root) if vma.file else None


# -- files behind them


@dataclass(frozen=True, slots=True)
class Inode:
    """What mappings ask of a ``struct inode``: ``mapping`` and ``a_ops`` are those of its file."""

    address: int
    mode: int
    nlink: int
    flags: int
    size: int
    mapping: int
    a_ops: int


def file_inode(session: Session, file: int) -> Inode:
    """The inode of an open ``struct file``. Raises MemoryFault."""
    types, memory = session.types, session.memory
    inode = memory.word(file + types.offset("struct file", "f_inode"))
    reader = types.reader("struct inode", "i_mode", "i_nlink", "i_flags", "i_size")
    mode, nlink, flags, size = reader(memory.read(inode + reader.start, reader.size))
    mapping = memory.word(file + types.offset("struct file", "f_mapping"))
    a_ops = memory.word(mapping + types.offset("struct address_space", "a_ops")) if mapping else 0
    return Inode(inode, mode, nlink, flags, size, mapping, a_ops)


# -- memory


def user_space(session: Session, mm: Mm, name: str) -> PagedSpace:
    """The address space behind an mm's page tables alone; see kcrash.linux.userpages for all of it.

    ``name``: what faults call it.
    """
    top = session.memory.translate(mm.pgd)
    paging = session.arch.user_paging(session.layout, session.physical, top)
    return PagedSpace(name, session.physical, paging, top, limit=paging.user_end)


def auxiliary_vector(session: Session, mm: Mm, word_bytes: int | None = None) -> list[tuple[int, int]]:
    """``(type, value)`` up to and with AT_NULL, as the kernel saved it at exec (binfmt_elf.c).

    ``word_bytes``: 4 for a compat process.
    """
    size = word_bytes or session.arch.word_bytes
    order = session.arch.byte_order
    words = [int.from_bytes(mm.auxv[i : i + size], order) for i in range(0, len(mm.auxv), size)]  # type: ignore[arg-type]
    pairs = []
    for kind, value in zip(words[::2], words[1::2], strict=False):
        pairs.append((kind, value))
        if not kind:
            break
    return pairs
