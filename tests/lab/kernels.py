"""Debian's cloud kernels: image, modules, vmlinux with DWARF and BTF."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab import apt, cache

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

    def _one(self, *patterns: str) -> Path:
        for pattern in patterns:
            for path in sorted(self.folder.glob(pattern)):
                return path
        raise LookupError(f"kernel {self.version}: no {' or '.join(patterns)}")

    @property
    def image(self) -> Path:
        """What boots."""
        return self._one("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")

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


def kernel(version: str, *, refresh: bool = False) -> Kernel:
    """A kernel, fetched when missing; refresh asks the suite for a newer build."""
    pin = cache.root() / "kernels" / f"{version}.json"
    with cache.locked(f"kernel-{version}"):
        if refresh or not pin.exists():
            pin.parent.mkdir(exist_ok=True)
            pin.write_text(json.dumps(_resolve(version)))
    release, package_version = json.loads(pin.read_text())
    name = f"kernels/{version}-{cache.digest(release, package_version, MODULES)}"
    folder = cache.keep(name, lambda part: _unpack(version, release, part))
    return Kernel(version, release, package_version, folder)


def _suite(version: str) -> apt.Suite:
    if version not in SUITES:
        raise LookupError(f"no suite known for kernel {version}; known: {', '.join(SUITES)}")
    return apt.Suite(SUITES[version])


def _resolve(version: str) -> tuple[str, str]:
    """(release, package version) that the suite has now."""
    suite = _suite(version)
    suite.update()
    for name in suite.depends("linux-image-cloud-amd64"):
        if found := re.fullmatch(rf"linux-image-({re.escape(version)}\S*-cloud-amd64)", name):
            return found[1], suite.version(name)
    raise LookupError(f"{suite.name} has no cloud kernel {version}")


def _unpack(version: str, release: str, folder: Path) -> None:
    suite, debs = _suite(version), folder / "debs"
    image = f"linux-image-{release}"
    parts = [name for name in suite.depends(image) if re.match(r"linux-(binary|modules)-", name)]
    for package in suite.fetch([image, *parts], debs):
        apt.unpack(package, folder)
    cache.remove(debs)
    (debug,) = suite.fetch([f"{image}-dbg"], debs)
    wanted = [f"*/{name}.ko*" for name in MODULES]
    apt.unpack(debug, folder, "*/vmlinux-*", "*/vmlinux", *wanted)
    cache.remove(debs)
