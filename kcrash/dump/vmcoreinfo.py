"""The VMCOREINFO note: what a kernel tells its dump's readers about itself.

Lines of text: kernel/vmcore_info.c and arch_crash_save_vmcoreinfo(),
documented in Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_TEXT = 1 << 20


class VmcoreInfo(Mapping[str, str]):
    """The parsed note; as a mapping, ``key -> text`` of every line.

    ``symbols``: name -> address. ``sizes``: type -> bytes. ``offsets``:
    "type.member" -> bytes. ``lengths``: array -> elements. ``numbers``:
    constants, signed. A line that does not parse is in ``raw`` only.
    """

    __slots__ = ("lengths", "numbers", "offsets", "raw", "sizes", "symbols")

    def __init__(self) -> None:
        self.raw: dict[str, str] = {}
        self.symbols: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.offsets: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self.numbers: dict[str, int] = {}

    def __getitem__(self, key: str) -> str:
        return self.raw[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def osrelease(self) -> str | None:
        """``uname -r`` of the crashed kernel."""
        return self.raw.get("OSRELEASE")

    @property
    def build_id(self) -> str | None:
        """The kernel's build-id in lower-case hexadecimal (since v5.9), or None."""
        text = self.raw.get("BUILD-ID", "").strip().lower()
        return text if text and not set(text) - set("0123456789abcdef") else None

    @property
    def kernel_offset(self) -> int | None:
        """By how much KASLR moved the kernel image, in bytes; None if it does not say."""
        return _integer(self.raw.get("KERNELOFFSET"), 16)

    @property
    def page_size(self) -> int | None:
        """Bytes a page of the crashed kernel."""
        return _integer(self.raw.get("PAGESIZE"), 10)

    @property
    def crash_time(self) -> int | None:
        """Seconds since 1970 of the panic."""
        return _integer(self.raw.get("CRASHTIME"), 10)


def parse_vmcoreinfo(data: bytes) -> VmcoreInfo:
    """Parse the note's text. Never fails: lines that are not ``KEY=VALUE`` are left out."""
    info = VmcoreInfo()
    keyed = {
        "SYMBOL": (info.symbols, 16),
        "SIZE": (info.sizes, 10),
        "OFFSET": (info.offsets, 10),
        "LENGTH": (info.lengths, 10),
        "NUMBER": (info.numbers, 10),
    }
    for line in data[:MAX_TEXT].split(b"\0", 1)[0].decode("utf-8", "replace").split("\n"):
        key, equals, text = line.partition("=")
        if not equals or key in info.raw:
            continue
        info.raw[key] = text.rstrip("\r")
        kind, _, name = key.partition("(")
        if kind in keyed and name.endswith(")"):
            table, base = keyed[kind]
            value = _integer(text, base)
            if value is not None:
                table[name[:-1]] = value
    return info


def _integer(text: str | None, base: int) -> int | None:
    """An integer as the kernel's printk wrote it; "0x" makes it hexadecimal (arm64's NUMBER lines)."""
    if not text or len(text) > 40:
        return None
    try:
        return int(text, 16 if text.lstrip(" -")[:2] in ("0x", "0X") else base)
    except ValueError:
        return None
