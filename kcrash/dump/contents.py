"""What a file is, judged by its first bytes."""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Literal

from kcrash.dump.source import Source, open_source

if TYPE_CHECKING:
    from pathlib import Path

ELF_MAGIC = b"\x7fELF"
ET_NAMES = {0: "no type", 1: "relocatable object", 2: "executable", 3: "shared object", 4: "core"}
ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
KDUMP_MAGICS = (b"KDUMP   ", b"DISKDUMP")
TEXT_HEAD = 512

Kind = Literal["kernel", "dump", "object", "compressed", "text", "unknown"]

# magic, what it is, how to undo it
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gzip -dk"),
    (b"\xfd7zXZ\0", "xz", "xz -dk"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"BZh", "bzip2", "bzip2 -dk"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"\x89LZO\0\r\n\x1a\n", "lzop", "lzop -d"),
    (b"PK\x03\x04", "zip", "unzip"),
)
_OTHERS = (
    (b"\x7fELF", "ELF file"),
    (b"MZ", "kernel image that boots (bzImage or Image): give the vmlinux it was made from"),
    (b"sadump\0\0", "sadump dump, which is not supported"),
    (b"QEVM", "QEMU migration stream (savevm, virsh save): make the dump with dump-guest-memory"),
    (b"LibvirtQemudSave", "libvirt save file: make the dump with virsh dump --memory-only"),
    (b"PAGEDU64", "Windows crash dump"),
    (b"PAGEDUMP", "Windows crash dump"),
    (b"QFI\xfb", "qcow2 disk image"),
    (b"!<arch>\n", "archive (ar or .deb)"),
    (b"\xed\xab\xee\xdb", "RPM package"),
)


def elf_type(source: Source) -> int | None:
    """e_type of an ELF file, None of anything else."""
    head = source.peek(18)
    if len(head) < 18 or not head.startswith(ELF_MAGIC):
        return None
    kind: int = unpack_from(">H" if head[5] == 2 else "<H", head, 16)[0]
    return kind


def is_vmlinux(source: Source) -> bool:
    """True for an ELF executable (x86 and most) or shared object (arm64, s390x, powerpc): not a core."""
    return elf_type(source) in (ET_EXEC, ET_DYN)


def identify(path: str | Path) -> Kind:
    """What the file is good for. Raises BadFormat if it cannot be read at all.

    "kernel": ELF executable; "object": relocatable ELF (a module); "dump": in a
    known container; "text": System.map or a script, say.
    """
    with open_source(path) as source:
        kind = elf_type(source)
        if kind is not None:
            return "kernel" if kind in (ET_EXEC, ET_DYN) else "dump" if kind == ET_CORE else "object"
        if source.peek(8) in KDUMP_MAGICS:
            return "dump"
        if compression(source):
            return "compressed"
        return "text" if _is_text(source.peek(TEXT_HEAD)) else "unknown"


def compression(source: Source) -> tuple[str, str] | None:
    """``(name, command that undoes it)`` of a file that is compressed as a whole, else None."""
    head = source.peek(16)
    return next(((name, undo) for magic, name, undo in _COMPRESSED if head.startswith(magic)), None)


def _is_text(head: bytes) -> bool:
    return bool(head) and not any(byte < 7 or 14 <= byte < 27 or byte == 127 for byte in head)


def describe(source: Source) -> str:
    """Why a file is no dump: one line about what it is instead."""
    packed = compression(source)
    if packed:
        return f"is compressed with {packed[0]}: decompress it first ({packed[1]})"
    head = source.peek(TEXT_HEAD)
    kind = elf_type(source)
    if kind is not None:
        return f"not a dump but an ELF {ET_NAMES.get(kind, f'file of type {kind}')}"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return f"not a dump but a {name}" if "dump" not in name else name
    if not head.strip(b"\0"):
        return f"not a dump in any known format (starts with {len(head)} zero bytes)"
    if _is_text(head):
        return "not a dump but a text file"
    return f"not a dump in any known format (starts with {head[:8].hex(' ')})"
