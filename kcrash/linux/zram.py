"""zram: swap in compressed memory (drivers/block/zram/zram_drv.c)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.compressors import Decompress, Packed, Stored, codec
from kcrash.linux.module_types import module_types
from kcrash.linux.paths import file_path
from kcrash.linux.swap_image import PageFile
from kcrash.linux.zram_types import ZramDeclarations
from kcrash.linux.zsmalloc import Objects

if TYPE_CHECKING:
    from kcrash.session import Session

SCANNED, PROBED = 1 << 16, 256  # table entries, and those in use


class Zram:
    """One zram device; ``address``: of its struct zram; ``pages``: how many it has."""

    def __init__(self, session: Session, address: int, pages: int) -> None:
        self.session = session
        self.pages = pages
        self.types = module_types(session, "zram", "zsmalloc", instead=ZramDeclarations())
        self.value = session.value(self.types.type("struct zram"), address)
        self.table = int(self.value.table)
        self.objects = Objects(session, int(self.value.mem_pool))
        self._entry = self.types.reader("struct zram_table_entry", "handle", self._flags_member())
        self._bits = self._flag_bits()
        self._stride = self._find_stride()
        self._codecs: dict[int, Decompress] = {}
        self._backing: PageFile | None = None

    def _flags_member(self) -> str:
        # "value" from v4.8 to v5.0; "attr.flags" later than v6.17.
        found = self.types.first_member("struct zram_table_entry", ("flags", "value", "attr.flags"))
        return found or "flags"

    def _flag_bits(self) -> dict[str, int]:
        """Bit numbers by name; "size" is where the object's size ends (ZRAM_FLAG_SHIFT)."""
        found = self.types.enumerator("ZRAM_SAME")
        if found is None:
            raise CorruptData("zram: no enum zram_pageflags")
        bits = {name: bit for name, bit in found[0].enumerators.items() if not name.startswith("__")}
        size = min(bits.values())
        if not 12 <= size < 32:
            raise CorruptData("zram: enum zram_pageflags makes no sense")
        return bits | {"size": size}

    def _find_stride(self) -> int:
        """Bytes of a table entry. Where they are declared and not known (zram_types), an entry may be longer
        by a time (CONFIG_ZRAM_MEMORY_TRACKING): then the size that makes sense of the first entries."""
        stride = self.types.size("struct zram_table_entry")
        if self.types.has("struct zram", "disksize"):
            return stride
        for size in (stride, stride + 8):
            if self._fits(size):
                return size
        raise CorruptData("zram: its table makes no sense")

    def _fits(self, stride: int) -> bool:
        """True if the first entries in use make sense with that size."""
        used = 0
        for index in range(min(self.pages, SCANNED)):
            handle, flags = self._slot(index, stride)
            if handle or flags:
                used += 1
                if not self._sane(handle, flags):
                    return False
                if used == PROBED:
                    break
        return True

    def _slot(self, index: int, stride: int) -> tuple[int, int]:
        """``(handle, flags)`` of a table entry."""
        base = self.table + index * stride + self._entry.start
        handle, flags = self._entry(self.session.memory.read(base, self._entry.size))
        return handle, flags

    def _sane(self, handle: int, flags: int) -> bool:
        length = flags & (1 << self._bits["size"]) - 1
        if not handle or self._is(flags, "ZRAM_SAME") or self._is(flags, "ZRAM_WB"):
            return not length
        return handle >> 63 == 1 and 0 < length <= self.session.arch.page_size

    def locate(self, index: int) -> Stored:
        """Where page ``index`` of the device is. Raises KcrashError if it is known not to be there."""
        size = self.session.arch.page_size
        if not 0 <= index < self.pages:
            raise CorruptData(f"zram: no page {index:x} on the device")
        handle, flags = self._slot(index, self._stride)
        if self._is(flags, "ZRAM_SAME"):
            return lambda: Packed(self._same(handle), size)
        length = flags & (1 << self._bits["size"]) - 1
        written = self._is(flags, "ZRAM_WB")
        if not handle and not written:
            raise CorruptData(f"zram: page {index:x} was never written")
        if written and not self._stays_packed:
            length = size
        if not 0 < length <= size:
            raise CorruptData(f"zram: page {index:x} claims {length} bytes")
        expand = self._codec(flags) if length < size else None
        if written:
            block = self._written_back(handle)
            return lambda: Packed(block().data[:length], size, expand)
        return lambda: Packed(self.objects.read(handle, length), size, expand)

    def _same(self, value: int) -> bytes:
        arch = self.session.arch
        word: bytes = value.to_bytes(arch.word_bytes, arch.byte_order)  # type: ignore[arg-type]
        return word * (arch.page_size // arch.word_bytes)

    @cached_property
    def _stays_packed(self) -> bool:
        """True if pages on the backing device are as they were in memory (compressed_writeback), since v7.0;
        else they are whole, whatever their size in memory was."""
        return self.value.has_("compressed_wb") and bool(int(self.value.compressed_wb))

    def _written_back(self, block: int) -> Stored:
        """A block of the backing device."""
        if self._backing is None:
            raise KcrashError(f"zram: pages are on {self.backing_name}: its content is to be given")
        return self._backing.locate(block)

    @cached_property
    def backing_name(self) -> str:
        """The device that pages are written back to, "" if there is none. Raises KcrashError."""
        file = int(self.value.backing_dev) if self.value.has_("backing_dev") else 0
        return file_path(self.session, file).decode("utf-8", "backslashreplace") if file else ""

    def give(self, backing: PageFile) -> None:
        """Take the backing device's content from a file."""
        self._backing = backing

    def _is(self, flags: int, name: str) -> bool:
        bit = self._bits.get(name)
        return bit is not None and bool(flags >> bit & 1)

    def _codec(self, flags: int) -> Decompress:
        """Since Linux commit 7ac07a26dea7 ("zram: preparation for multi-zcomp support") in v6.2 a page's
        flags hold a number of the compressor."""
        bit = self._bits.get("ZRAM_COMP_PRIORITY_BIT1")
        priority = flags >> bit & 3 if bit is not None else 0
        if priority not in self._codecs:
            self._codecs[priority] = codec(self.compressor(priority))
        return self._codecs[priority]

    def compressor(self, priority: int = 0) -> str:
        """The name of a compressor, as /sys/block/zramN/comp_algorithm has it."""
        if self.value.has_("comp_algs"):
            return self.value.comp_algs[priority].string_(64).decode("latin-1")
        if self.value.has_("compressor"):
            return self.value.compressor.string_().decode("latin-1")
        return self.value.comp.name.string_(64).decode("latin-1")
