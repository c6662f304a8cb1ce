"""Compressed carriers: a vmlinux or module in .gz, .xz, .zst or .bz2, and the kernel inside a boot image."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from kcrash.errors import BadFormat
from kcrash.files.cache import Cache
from kcrash.files.unpack import MAX_UNPACKED, Carrier, Progress, compression, store


def _not_elf(head: bytes) -> str:
    return "" if head.startswith(b"\x7fELF") else "something that is no ELF file"


def is_plain(path: Path) -> bool:
    """Whether the file starts as an ELF file does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def unpack(
    path: Path, cache: Cache, *, limit: int = MAX_UNPACKED, progress: Progress | None = None
) -> Path | None:
    """The unpacked form of a compressed ELF file, kept in the cache; None if ``path`` is not compressed.

    Raises BadFormat for a broken file, one that unpacks beyond ``limit`` bytes or holds no ELF file,
    MissingCodec, KcrashError for a cache that cannot be written, OSError.
    """
    with path.open("rb") as file:
        codec = compression(file.read(8))
        if codec is None:
            return None
        file.seek(0)
        return store(Carrier(path, file, codec, "", path.stat().st_size, _not_elf), cache, limit, progress)


# -- boot images


@dataclass(frozen=True, slots=True)
class BootImage:
    """A kernel as boot loaders take it.

    ``kind``: what it is called; ``offset``, ``size``: its compressed kernel in the file, in bytes,
    size 0 if the format does not say or holds no ELF file.
    """

    kind: str
    offset: int = 0
    size: int = 0


def boot_image(path: Path) -> BootImage | None:
    """What boot image a file is, None if it is none. Raises OSError.

    Linux Documentation/arch/x86/boot.rst (setup header), arch/arm64/booting.rst,
    arch/riscv/boot-image-header.rst, drivers/firmware/efi/libstub/zboot-header.S; U-Boot include/image.h.
    """
    with path.open("rb") as file:
        head = file.read(0x268)
    if head[0x202:0x206] == b"HdrS":
        return _bzimage(head)
    if head[:8] == b"MZ\0\0zimg":
        return BootImage("an EFI zboot image")
    for offset, magic, kind in _IMAGE_MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return BootImage(kind)
    return None


_IMAGE_MAGICS = (
    (0x38, b"ARM\x64", "an arm64 boot Image"),
    (0x38, b"RSC\x05", "a RISC-V boot Image"),
    (0x24, b"\x18\x28\x6f\x01", "an ARM zImage"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
)


def _bzimage(head: bytes) -> BootImage:
    """The x86 form; the payload's place is told since boot protocol 2.08."""
    kind = "an x86 boot image (bzImage, vmlinuz)"
    if len(head) < 0x250 or struct.unpack_from("<H", head, 0x206)[0] < 0x208:
        return BootImage(kind)
    setup_sectors = head[0x1F1] or 4
    offset, size = struct.unpack_from("<II", head, 0x248)
    return BootImage(kind, (setup_sectors + 1) * 512 + offset, size)


def unpack_boot_image(
    path: Path, cache: Cache, *, limit: int = MAX_UNPACKED, progress: Progress | None = None
) -> Path:
    """The ELF kernel inside an x86 boot image, kept in the cache: code, ORC and BTF, but no symbols or DWARF.

    Raises BadFormat if there is none, KcrashError for a compression that Python cannot undo, OSError.
    """
    image = boot_image(path)
    if image is None or not image.size:
        raise BadFormat(str(path), "holds no compressed ELF kernel")
    with path.open("rb") as file:
        file.seek(image.offset)
        codec = compression(file.read(8))
        if codec is None:
            raise BadFormat(str(path), "unknown compression of the kernel inside", image.offset)
        file.seek(image.offset)
        return store(Carrier(path, file, codec, "boot image", image.size, _not_elf), cache, limit, progress)
