"""Debian's kernels: image, modules, and vmlinux with DWARF and BTF where its package is worth its size."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab import apt, cache
from tests.lab.architectures import AMD64, Architecture

SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "7.2": "sid"}

# Loaded in the guests, and unpacked with their debug information.
MODULES = (
    *("virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"),
    *("zsmalloc", "lzo", "lzo-rle", "lz4_compress", "lz4hc_compress", "lz4", "lz4hc", "842_compress"),
    *("842_decompress", "842", "zstd_compress", "deflate", "zram", "qemu_fw_cfg"),
    *("crc16", "crc32c_generic", "crc32c-cryptoapi", "libcrc32c", "mbcache", "jbd2", "ext4"),
)
CAPTURE_MODULES = (*MODULES[:6], *MODULES[-7:])


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel."""

    version: str
    release: str
    package_version: str
    folder: Path
    arch: Architecture = AMD64

    @property
    def captures(self) -> bool:
        """Whether it leaves a dump when it panics."""
        return self.arch.captures(self.version)

    def _one(self, *patterns: str) -> Path:
        for pattern in patterns:
            for path in sorted(self.folder.glob(pattern)):
                return path
        raise LookupError(f"kernel {self.version}: no {' or '.join(patterns)}")

    @property
    def image(self) -> Path:
        """What boots."""
        return self._one("boot/vmlinuz-*", "boot/vmlinux-*", "usr/lib/modules/*/vmlinuz")

    @property
    def vmlinux(self) -> Path:
        """ELF with DWARF and BTF."""
        return self._one("usr/lib/debug/boot/vmlinux-*", "usr/lib/debug/lib/modules/*/vmlinux")

    @property
    def modules(self) -> Path:
        """The folder of the modules as shipped."""
        return self._one("lib/modules/*/kernel", "usr/lib/modules/*/kernel").parent

    @property
    def debug_modules(self) -> Path:
        """The folder of the debug twins of the modules that the guest loads."""
        return self._one("usr/lib/debug/lib/modules/*", "usr/lib/debug/usr/lib/modules/*")

    def module(self, name: str) -> bytes | None:
        """A module's ELF file, None when the kernel has no such module (built in, or of another time)."""
        for path in self.modules.rglob(f"{name}.ko*"):
            return _expanded(path)
        return None


def _expanded(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".ko":
        return path.read_bytes()
    raise ValueError(f"{path.name}: unknown compression")


def pin_name(version: str, arch: Architecture) -> str:
    """The file below the cache that says which build of a kernel is used."""
    return f"kernels/{_label(version, arch)}.json"


def _label(version: str, arch: Architecture) -> str:
    return version if arch is AMD64 else f"{version}-{arch.name}"


def kernel(version: str, arch: Architecture = AMD64, *, refresh: bool = False) -> Kernel:
    """A kernel, fetched when missing; refresh asks the suite for a newer build."""
    pin = cache.root() / pin_name(version, arch)
    with cache.locked(f"kernel-{_label(version, arch)}"):
        if refresh or not pin.exists():
            pin.parent.mkdir(exist_ok=True)
            pin.write_text(json.dumps(_resolve(version, arch)))
    release, package_version = json.loads(pin.read_text())
    name = f"kernels/{_label(version, arch)}-{cache.digest(release, package_version, MODULES)}"
    folder = cache.keep(name, lambda part: _unpack(version, release, part, arch))
    return Kernel(version, release, package_version, folder, arch)


def _suite(version: str, arch: Architecture) -> apt.Suite:
    if version not in SUITES:
        raise LookupError(f"no suite known for kernel {version}; known: {', '.join(SUITES)}")
    return apt.Suite(SUITES[version], arch.debian)


def _resolve(version: str, arch: Architecture) -> tuple[str, str]:
    """(release, package version) that the suite has now."""
    suite = _suite(version, arch)
    suite.update()
    for name in suite.depends(arch.kernel):
        if found := re.fullmatch(rf"linux-image-({re.escape(version)}\S*)", name):
            return found[1], suite.version(name)
    raise LookupError(f"{suite.name} has no {arch.kernel} {version}")


def _unpack(version: str, release: str, folder: Path, arch: Architecture) -> None:
    suite, debs = _suite(version, arch), folder / "debs"
    image = f"linux-image-{release}"
    parts = [name for name in suite.depends(image) if re.match(r"linux-(binary|modules)-", name)]
    for package in suite.fetch([image, *parts], debs):
        apt.unpack(package, folder)
    cache.remove(debs)
    if not arch.debug:
        return
    (debug,) = suite.fetch([f"{image}-dbg"], debs)
    wanted = [f"*/{name}.ko*" for name in MODULES]
    apt.unpack(debug, folder, "*/vmlinux-*", "*/vmlinux", *wanted)
    cache.remove(debs)
