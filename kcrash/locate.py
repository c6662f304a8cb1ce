"""Where the kernel is: its architecture, layout and symbols, from a vmlinux or from the dump alone.

VMCOREINFO says most of it (kernel/vmcore_info.c). Where the dump has no such
note, a CPU's registers may do, or the kernel's own copy of the text in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kcrash.arch import all_arches, arches_by_prstatus, find_arch, find_arch_by_machine
from kcrash.arch.base import Arch, KernelLayout, Paging
from kcrash.dump.base import Dump
from kcrash.dump.notes import NT_PRSTATUS
from kcrash.dump.scan import vmcoreinfo_candidates
from kcrash.dump.vmcoreinfo import VmcoreInfo, parse_vmcoreinfo
from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.memory.space import PagedSpace, PhysicalSpace
from kcrash.symbols.elffile import ElfFile
from kcrash.symbols.kallsyms import KallsymsSymbols, kallsyms_of_vmcoreinfo
from kcrash.symbols.table import ElfSymbols

ANCHOR = "_stext"  # a symbol that every kernel has

#: ``(what is being done, steps done, steps in all)``.
Progress = Callable[[str, int, int], None]
KernelTable = ElfSymbols | KallsymsSymbols
UTS_BYTES = 512  # of struct uts_namespace, which begins with the names or has a reference count before them


@dataclass(frozen=True)
class LayoutProbe:
    """What an architecture looks at to find the kernel (kcrash.arch.base.Arch.find_layout).

    ``link_address``: of a symbol, before KASLR; ``image``: of the whole kernel,
    likewise, (0, 0) if unknown; ``has_symbols``: False while there are none yet;
    ``image_shift``: what to take off a ``link_address`` for the physical one, where
    that is all that is known.
    """

    dump: Dump
    vmcoreinfo: VmcoreInfo | None
    physical: PhysicalSpace
    link_address: Callable[[str], int | None]
    image: tuple[int, int]
    has_symbols: bool = True
    image_shift: int | None = None

    def space(self, paging: Paging, top: int) -> PagedSpace:
        """Kernel memory through the page tables at physical address ``top``."""
        return PagedSpace("kernel", self.physical, paging, top)


class Kernel(NamedTuple):
    """A kernel found in a dump."""

    arch: Arch
    layout: KernelLayout
    physical: PhysicalSpace
    memory: PagedSpace
    table: KernelTable
    vmcoreinfo: VmcoreInfo | None


def locate(dump: Dump, vmlinux: ElfFile | None, progress: Progress | None = None) -> Kernel:
    """Find the kernel. Raises KcrashError if nothing in the dump tells where it is."""
    raw = dump.info.vmcoreinfo
    info = parse_vmcoreinfo(raw) if raw else None
    if vmlinux is not None:
        return _with_file(dump, vmlinux, info, progress)
    return _alone(dump, info, progress)


def _space(physical: PhysicalSpace, layout: KernelLayout) -> PagedSpace:
    return PagedSpace("kernel", physical, layout.paging, layout.top_table, layout.linear)


# -- with a vmlinux


def _with_file(dump: Dump, vmlinux: ElfFile, info: VmcoreInfo | None, progress: Progress | None) -> Kernel:
    arch = find_arch(vmlinux.machine, vmlinux.byte_order, vmlinux.word_bits)
    physical = PhysicalSpace(dump, arch.byte_order, arch.word_bytes)
    table = ElfSymbols(vmlinux)
    try:
        layout = arch.find_layout(LayoutProbe(dump, info, physical, table.link_address, table.image))
    except KcrashError:
        info = info or _info_in_memory(dump, progress)
        shift = None if info else _image_shift(physical, table, progress)
        if info is None and shift is None:
            raise
        layout = arch.find_layout(
            LayoutProbe(dump, info, physical, table.link_address, table.image, image_shift=shift)
        )
    table.bias = layout.kaslr
    return _kernel(arch, layout, physical, table, info)


def _image_shift(physical: PhysicalSpace, table: ElfSymbols, progress: Progress | None) -> int | None:
    """LayoutProbe.image_shift of a vmlinux: by the physical address that kallsyms has of a symbol."""
    from kcrash.symbols.kallsyms_scan import find_kallsyms

    found = find_kallsyms(physical, progress=_told(progress, "searching for kallsyms"))
    symbol = found[0].symbol(ANCHOR) if found else None
    linked = table.link_address(ANCHOR)
    return None if found is None or symbol is None or linked is None else linked - (symbol.address - found[1])


def _kernel(
    arch: Arch, layout: KernelLayout, physical: PhysicalSpace, table: KernelTable, info: VmcoreInfo | None
) -> Kernel:
    """With the pages that this kernel was built for, of those that the architecture has."""
    arch = replace(arch, page_shift=layout.paging.levels[-1].shift)
    return Kernel(arch, layout, physical, _space(physical, layout), table, info)


def _info_in_memory(dump: Dump, progress: Progress | None) -> VmcoreInfo | None:
    """The kernel's own copy of VMCOREINFO; the copy that the panic finished, if there is one."""
    found = list(vmcoreinfo_candidates(dump, _told(progress, "searching for VMCOREINFO")))
    best = max(found, key=lambda candidate: candidate.rank, default=None)
    return best.info if best else None


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)


# -- the dump alone


def _alone(dump: Dump, info: VmcoreInfo | None, progress: Progress | None) -> Kernel:
    """Symbols from the kernel's kallsyms: first what can be had without any symbol, then the whole."""
    likely = _likely(dump)
    info = info or _info_in_memory(dump, progress)
    if info is None:
        return _by_kallsyms_of(dump, likely, progress)
    arch = likely[0] if len(likely) == 1 else _arch_by_trial(dump, info, likely or all_arches())
    physical = PhysicalSpace(dump, arch.byte_order, arch.word_bytes)
    rough = arch.find_layout(LayoutProbe(dump, info, physical, lambda name: None, (0, 0), has_symbols=False))
    table = _kallsyms(info, physical, _space(physical, rough), progress)
    table.bias = rough.kaslr
    layout = arch.find_layout(LayoutProbe(dump, info, physical, table.link_address, table.image))
    return _kernel(arch, layout, physical, table, info)


def _by_kallsyms_of(dump: Dump, likely: list[Arch], progress: Progress | None) -> Kernel:
    """By the first of the likely architectures that makes sense of memory."""
    why = KcrashError(
        f"{dump.path}: no VMCOREINFO in it, nor its machine's name: give the kernel's vmlinux too"
    )
    for arch in likely:
        try:
            return _by_kallsyms(arch, PhysicalSpace(dump, arch.byte_order, arch.word_bytes), progress)
        except KcrashError as error:
            why = error
    raise why


def _by_kallsyms(arch: Arch, physical: PhysicalSpace, progress: Progress | None) -> Kernel:
    """Without VMCOREINFO anywhere: the symbols tell where the kernel's own page tables are."""
    from kcrash.symbols.kallsyms_scan import find_kallsyms, moved

    dump = physical.dump
    found = find_kallsyms(physical, progress=_told(progress, "searching for kallsyms"))
    if found is None:
        raise KcrashError(
            f"{dump.path}: neither VMCOREINFO nor kallsyms in it: give the kernel's vmlinux too"
        )
    table, shift = found
    rough = arch.find_layout(LayoutProbe(dump, None, physical, table.link_address, (0, 0), image_shift=shift))
    if rough.kaslr:  # the symbols were physical addresses
        table = moved(table, rough.kaslr)
    probe = LayoutProbe(
        dump, None, physical, table.link_address, table.image, image_shift=shift + rough.kaslr
    )
    return _kernel(arch, arch.find_layout(probe), physical, table, None)


def _likely(dump: Dump) -> list[Arch]:
    """The architectures that the container may be of, by what it says; none if it says nothing."""
    info = dump.info
    if info.machine is not None:
        named = [arch for arch in all_arches() if arch.elf_machine == info.machine]
        # Not by the byte order: QEMU labels the dumps of ppc64le big-endian. QEMU and kexec write those of
        # 32-bit machines as 64-bit ELF files too.
        fitting = [arch for arch in named if arch.word_bits == info.word_bits] or named
        return fitting or [find_arch(info.machine, info.byte_order, info.word_bits)]  # says what there is
    found = find_arch_by_machine(info.utsname.machine, info.byte_order)
    if found is not None:
        return [found]
    # QEMU writes "Unknown".
    sizes = {len(note.data) for note in info.notes if note.name == "CORE" and note.type == NT_PRSTATUS}
    return arches_by_prstatus(sizes, info.byte_order, info.word_bits)


def _arch_by_trial(dump: Dump, info: VmcoreInfo, likely: list[Arch]) -> Arch:
    """That of the likely by which the kernel's release is where VMCOREINFO says (LiME, raw memory ...)."""
    release, at = (info.osrelease or "").encode(), info.symbols.get("init_uts_ns")
    for arch in likely if release and at is not None else ():
        physical = PhysicalSpace(dump, arch.byte_order, arch.word_bytes)
        probe = LayoutProbe(dump, info, physical, lambda name: None, (0, 0), has_symbols=False)
        try:
            text = _space(physical, arch.find_layout(probe)).read(at or 0, UTS_BYTES)
        except KcrashError:
            continue
        if release in text:
            return arch
    machine = dump.info.utsname.machine or "(not named)"
    raise KcrashError(f"{dump.path}: machine {machine!r} is not known: give a vmlinux")


def _kallsyms(
    info: VmcoreInfo, physical: PhysicalSpace, memory: PagedSpace, progress: Progress | None
) -> KallsymsSymbols:
    """The tables that VMCOREINFO names, else those found by searching."""
    try:
        found = kallsyms_of_vmcoreinfo(memory, info)
    except (CorruptData, MemoryFault):
        found = None
    return found or _searched(physical, memory, progress)


def _searched(physical: PhysicalSpace, memory: PagedSpace, progress: Progress | None) -> KallsymsSymbols:
    from kcrash.symbols.kallsyms_scan import find_kallsyms, find_virtual, moved

    found = find_kallsyms(physical, progress=_told(progress, "searching for kallsyms"))
    if found is None:
        raise KcrashError(f"{physical.dump.path}: no symbols (kallsyms) in it: give the kernel's vmlinux too")
    table, shift = found
    if shift:
        return table
    names = table.tables.names  # place-relative tables: only page tables tell where they run
    half = 1 << 8 * memory.word_bytes - 1
    virtual = find_virtual(memory, names, half, 2 * half)
    if virtual is None:
        raise KcrashError(f"{physical.dump.path}: the kernel's symbols are in no page table")
    return moved(table, virtual - names)
