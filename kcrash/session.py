"""The composition root: files in, a Session out.

A Session holds the dump, its address spaces, symbols and types, and the state
that commands share (the context task). It knows nothing of what the kernel's
structures mean: that is kcrash.linux, which it only hands over to symbols as
the one that can list modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from kcrash.arch.base import Arch, KernelLayout
from kcrash.dump import is_dump, open_dump
from kcrash.dump.base import Dump
from kcrash.dump.live import KCORE, open_live
from kcrash.dump.vmcoreinfo import VmcoreInfo, parse_vmcoreinfo
from kcrash.errors import BadFormat, KcrashError, MemoryFault, MismatchError, MissingSymbol, MissingType
from kcrash.linux.cpus import MAX_CPUS
from kcrash.locate import Progress, locate
from kcrash.symbols.elffile import ET_CORE, ET_REL, ElfFile
from kcrash.symbols.image import FileImage, FirstOf, KernelImage, MemoryImage
from kcrash.symbols.table import Symbols
from kcrash.types.btf import BtfSource
from kcrash.types.declarations import DeclarationSource
from kcrash.types.model import Type
from kcrash.types.namespace import Types
from kcrash.types.source import LazySource
from kcrash.values.value import Value

if TYPE_CHECKING:
    from kcrash.linux.module_debug import ModuleDebug
    from kcrash.types.dwarf import DwarfSource

T = TypeVar("T")


class SourceLine(NamedTuple):
    """A line of source, as the debuginfo names the file."""

    file: str
    line: int


@dataclass
class Options:
    """How to open. ``force``: use a vmlinux of another build; ``module_dirs``: where module
    objects lie; ``load_modules``: False leaves out module symbols; ``progress``: hears of slow searches;
    ``notice``: is told in a line what debuginfo is incomplete."""

    progress: Progress | None = None
    notice: Callable[[str], None] | None = None
    force: bool = False
    zero_excluded: bool = False
    module_dirs: list[str] = field(default_factory=list)
    load_modules: bool = True

    @property
    def total_progress(self) -> Callable[[str, int, int | None], None] | None:
        """``progress`` as kcrash.debuginfo calls it: the number of steps may be unknown."""
        progress = self.progress
        return None if progress is None else lambda what, done, total: progress(what, done, total or 0)


class Session:
    """An opened kernel."""

    def __init__(self, dump: Dump, vmlinux: ElfFile | None, options: Options | None = None) -> None:
        self.options = options or Options()
        self.dump = dump
        self.dump.zero_excluded = self.options.zero_excluded
        self.vmlinux = vmlinux
        self._cache: dict[Any, Any] = {}
        self._readings: dict[Any, Any] = {}
        #: The context task (a kcrash.linux.tasks.Task), as ``set`` shows and changes it.
        self.context: Any = None
        #: Module debuginfo in use (kcrash.linux.module_debug), by the module's name.
        self.module_debug: dict[str, ModuleDebug] = {}
        self._check_build_id()
        self._open()

    def _open(self) -> None:
        self._kernel = kernel = locate(self.dump, self.vmlinux, self.options.progress)
        self.arch: Arch = kernel.arch
        self.physical = kernel.physical
        self.layout: KernelLayout = kernel.layout
        self.memory = kernel.memory
        self.vmcoreinfo: VmcoreInfo | None = kernel.vmcoreinfo
        low, high = (address + self.layout.kaslr for address in kernel.table.image)
        self.symbols = Symbols(kernel.table, (low, high), self.release_hint)
        if self.options.load_modules:
            self.symbols.on_demand(self._load_modules)
        in_memory = MemoryImage(self.symbols.find_kernel, self.memory.read)
        self.image: KernelImage = in_memory
        if self.vmlinux is not None:
            self.image = FirstOf(FileImage(self.vmlinux, self.layout.kaslr), in_memory)
        self.types = Types(self.arch.byte_order, self.arch.word_bytes)
        self.types.kernel = self.release_hint
        self._add_types()
        self._check_banner()
        if self.vmcoreinfo is None:
            self._recover_vmcoreinfo()

    @property
    def release_hint(self) -> str:
        """The kernel's release as the dump's headers tell it, "" if they do not."""
        if self.vmcoreinfo and self.vmcoreinfo.osrelease:
            return self.vmcoreinfo.osrelease
        return self.dump.info.utsname.release or self._release_of_banner

    @cached_property
    def _release_of_banner(self) -> str:
        banner = self._kernel.table.symbol("linux_banner")
        try:
            words = self.memory.string(banner.address, 512).split() if banner else []
        except MemoryFault:
            words = []
        return (
            words[2].decode("ascii", "replace") if words[:2] == [b"Linux", b"version"] and words[2:] else ""
        )

    def _add_types(self) -> None:
        blob = self.image.section(".BTF")
        declared = DeclarationSource(self.types, size_of=self._symbol_size)
        if blob is not None:
            btf = BtfSource(blob.data, blob.file, pointer_size=self.arch.word_bytes)
            self.types.add(btf)
            declared.unnamed = btf.unnamed
        self.types.add(declared)
        self.types.elsewhere = self._module_type
        if self.has_dwarf:
            self.types.add(LazySource(lambda: self.dwarf), last_resort=blob is not None)
        elif blob is None:
            raise BadFormat(self.kernel_name, "has neither BTF nor DWARF: no types")

    def _module_type(self, kind: str, name: str) -> Type | None:
        from kcrash.linux.module_types import find_in_modules

        return find_in_modules(self, kind, name) if self.options.load_modules else None

    def _symbol_size(self, name: str) -> int:
        symbol = self.symbols.symbol(name)
        return symbol.size if symbol else 0

    @property
    def kernel_name(self) -> str:
        """What types and symbols come from: the vmlinux, or the dump."""
        return self.vmlinux.path if self.vmlinux else self.dump.path

    @property
    def build_id(self) -> str | None:
        """The kernel's build-id in hex, from VMCOREINFO or the vmlinux."""
        told = self.vmcoreinfo.build_id if self.vmcoreinfo else None
        return told or (self.vmlinux.build_id if self.vmlinux else None)

    @property
    def has_dwarf(self) -> bool:
        """True if there is a vmlinux with DWARF."""
        sections = self.vmlinux.sections if self.vmlinux else {}
        return ".debug_info" in sections or ".zdebug_info" in sections

    @cached_property
    def dwarf(self) -> DwarfSource:
        """The vmlinux's DWARF (kcrash.types.dwarf.DwarfSource), made when first used.

        Raises KcrashError without a vmlinux.
        """
        from kcrash.types.dwarf import DwarfSource

        if self.vmlinux is None:
            raise KcrashError("there is no vmlinux, so no DWARF")
        return DwarfSource(self.vmlinux, notice=self.options.notice)

    def _load_modules(self) -> None:
        from kcrash.linux.modules import load_module_symbols

        load_module_symbols(self)

    # -- do the files belong together?

    def _check_build_id(self) -> None:
        raw = self.dump.info.vmcoreinfo
        ours = self.vmlinux.build_id if self.vmlinux else None
        theirs = parse_vmcoreinfo(raw).build_id if raw and ours else None
        if self.vmlinux and ours and theirs and ours != theirs and not self.options.force:
            raise MismatchError(
                f"{self.vmlinux.path} is of another build than {self.dump.path}: "
                f"build-id {ours}, the dump's kernel has {theirs} (--force uses it all the same)"
            )

    def _check_banner(self) -> None:
        """The banner in memory must be the vmlinux's: catches a wrong vmlinux where there is no build-id."""
        if self.vmlinux is None or self.options.force:
            return
        if (
            self.dump.info.vmcoreinfo
            and self.vmcoreinfo
            and self.vmcoreinfo.build_id
            and self.vmlinux.build_id
        ):
            return
        found = self._banner_of_file(self.vmlinux)
        if found is None:
            return
        try:
            banner = self.memory.string(self.symbols.address("linux_banner"), 512)
        except (MemoryFault, MissingSymbol) as error:
            raise MismatchError(
                f"{self.vmlinux.path} does not fit {self.dump.path}: linux_banner cannot be read ({error})"
            ) from None
        if banner != found:
            raise MismatchError(
                f"{self.vmlinux.path} is of another kernel than {self.dump.path}: {_quoted(found)}, "
                f"the dump has {_quoted(banner)} (--force uses it all the same)"
            )

    def _banner_of_file(self, vmlinux: ElfFile) -> bytes | None:
        symbol = self.symbols.symbol("linux_banner")
        if symbol is None:
            return None
        address = symbol.address - self.layout.kaslr
        for section in vmlinux.section_list:
            if section.addr <= address < section.addr + section.size and section.name == ".rodata":
                at = section.offset + address - section.addr
                return vmlinux.mm[at : at + 512].split(b"\0", 1)[0]
        return None

    def _recover_vmcoreinfo(self) -> None:
        """A dump without the note still has the text in memory (kernel/vmcore_info.c)."""
        try:
            pointer = self.memory.word(self.symbols.address("vmcoreinfo_data"))
            size = self.memory.word(self.symbols.address("vmcoreinfo_size"))
            text = self.memory.read(pointer, min(size, 65536))
        except (MemoryFault, MissingSymbol):
            return
        if text.startswith(b"OSRELEASE="):
            self.vmcoreinfo = parse_vmcoreinfo(text)

    # -- values

    def value(self, type_: str | Type, address: int) -> Value:
        """The value of a type at a kernel address."""
        return Value(self, self.types.type(type_) if isinstance(type_, str) else type_, address)

    def variable(self, name: str) -> Value:
        """A global variable. Raises MissingSymbol, or MissingType where nothing tells its type."""
        address = self.symbols.address(name)
        symbol = self.symbols.symbol(name)
        type_ = self.types.variable(name, symbol.module if symbol else "")
        if type_ is None:
            detail = "no source says what type this variable has: cast its address"
            raise MissingType(name, detail, self.release_hint)
        return Value(self, type_, address)

    __getitem__ = variable

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """``make()``, computed once for each ``key`` in this session."""
        if key not in self._cache:
            self._cache[key] = make()
        found: T = self._cache[key]
        return found

    def reading(self, key: Any, make: Callable[[], T]) -> T:
        """As memo(), for what a running system changes: kept until refresh()."""
        if key not in self._readings:
            self._readings[key] = make()
        found: T = self._readings[key]
        return found

    @property
    def live(self) -> bool:
        """True for the running system."""
        return self.dump.info.live

    def refresh(self) -> None:
        """Forget what the running system may have changed. The context task stays, if it lives."""
        from kcrash.linux.tasks import task_table

        self._readings.clear()
        self.memory.forget()
        if self.options.load_modules:
            self.symbols.on_demand(self._load_modules)
        if self.context is not None:
            self.context = task_table(self).by_address.get(self.context.address)

    def forget(self, key: Any) -> None:
        """Compute ``memo(key)`` or ``reading(key)`` anew when it is next asked for."""
        self._cache.pop(key, None)
        self._readings.pop(key, None)

    # -- what DWARF tells of addresses

    def dwarf_at(self, address: int) -> tuple[DwarfSource, int] | None:
        """``(source, bias)`` of the DWARF that tells of a kernel address: there it is ``address - bias``."""
        low, high = self.symbols.kernel_range
        if low <= address < high:
            return (self.dwarf, self.layout.kaslr) if self.has_dwarf else None
        return next(((m.dwarf, 0) for m in self.module_debug.values() if m.covers(address)), None)

    def line_of(self, address: int) -> SourceLine | None:
        """The line of source that the code at a kernel address comes from; None where nothing tells."""
        known = self.dwarf_at(address)
        found = known[0].line_of(address - known[1]) if known else None
        return None if found is None else SourceLine(found.file, found.line)

    # -- per-CPU data

    def per_cpu_offset(self, cpu: int) -> int:
        """What to add to a per-CPU symbol's address for ``cpu``; 0 on a kernel without SMP."""
        table = self.symbols.find_kernel("__per_cpu_offset")
        if table is None or not 0 <= cpu < MAX_CPUS:
            return 0
        return self.memory.word(table + cpu * self.arch.word_bytes)

    def per_cpu_address(self, name: str, cpu: int) -> int | None:
        """Where a per-CPU variable lies for ``cpu``; None if the kernel has no such symbol."""
        symbol = self.symbols.find_kernel(name)
        if symbol is None:
            return None
        return symbol + self.memo(("per_cpu_offset", cpu), lambda: self.per_cpu_offset(cpu)) & self.word_mask

    def per_cpu(self, name: str, cpu: int) -> Value:
        """A per-CPU variable of ``cpu``. Raises MissingSymbol, MissingType."""
        address, type_ = self.per_cpu_address(name, cpu), self.types.variable(name)
        if address is None:
            raise MissingSymbol(name, self.release_hint)
        if type_ is None:
            raise MissingType(name, "no source says what type this per-CPU variable has", self.release_hint)
        return Value(self, type_, address)

    @property
    def word_mask(self) -> int:
        """All ones in a pointer's bits."""
        return (1 << self.arch.word_bits) - 1

    def close(self) -> None:
        """Give back the files."""
        self.dump.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(files: Sequence[str], options: Options | None = None) -> Session:
    """Open ``files``: a dump, and a vmlinux or where one may be found, in any order, told apart by content.

    Without a dump it is the running system.
    Without a vmlinux one of the dump's build is looked for where distributions
    put them and at $DEBUGINFOD_URLS; if there is none, the dump alone has to do.
    Raises KcrashError (BadFormat, MismatchError ...) or OSError.
    """
    options = options or Options()
    kernels, dumps = sort_files(files)
    if not dumps or dumps == [str(KCORE)]:
        dump = open_live()
    else:
        dump = open_dump(dumps, options.total_progress)
    try:
        return Session(dump, _vmlinux(dump, kernels, options), options)
    except BaseException as error:
        unlucky = isinstance(error, KcrashError) and not isinstance(error, MismatchError) and dump.cut
        dump.close()
        if unlucky:
            raise KcrashError(f"{error} (the dump is incomplete: its file ends before its data do)") from None
        raise


def sort_files(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """``(kernels, dumps)``: folders, ELF files that are no cores and packed files are, or hold, kernels;
    but not a packed dump."""
    kernels: list[str] = []
    dumps: list[str] = []
    for file in files:
        (dumps if is_dump(file) or not _holds_kernel(file) else kernels).append(file)
    return kernels, dumps


def _holds_kernel(file: str) -> bool:
    if _is_kernel(file):
        return True
    from kcrash.debuginfo import may_hold_kernel

    return may_hold_kernel(file)


def _is_kernel(file: str) -> bool:
    try:
        kind = ElfFile(file).type
    except (BadFormat, OSError):
        return False
    return kind not in (ET_CORE, ET_REL)


def _vmlinux(dump: Dump, given: list[str], options: Options) -> ElfFile | None:
    """The vmlinux given, or found; None if the dump has to do without."""
    if len(given) == 1 and _is_kernel(given[0]):
        return ElfFile(given[0])
    from kcrash.debuginfo import Found, find_kernel

    info = parse_vmcoreinfo(dump.info.vmcoreinfo) if dump.info.vmcoreinfo else None
    build_id = info.build_id if info else None
    if not given and build_id is None:
        return None
    release = (info.osrelease if info else "") or dump.info.utsname.release
    found = find_kernel(build_id, release, given=given, force=options.force, progress=options.total_progress)
    if isinstance(found, Found):
        return ElfFile(found.path)
    if given:
        raise found.error()
    return None


def _quoted(text: bytes) -> str:
    return repr(text[:120].decode("ascii", "replace").strip())
