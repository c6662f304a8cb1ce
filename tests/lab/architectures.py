"""The architectures of the lab: what Debian, QEMU and the compilers call each. A new one: a row in ROWS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

# What makedumpfile writes in the capture kernel, from /proc/vmcore: file name -> its options.
CAPTURED = {
    "zlib-d1": ("-c", "-d", "1"),
    "zlib-d31": ("-c", "-d", "31"),
    "lzo-d1": ("-l", "-d", "1"),
    "lzo-d31": ("-l", "-d", "31"),
    "zstd-d1": ("-z", "-d", "1"),
    "zstd-d31": ("-z", "-d", "31"),
}


@dataclass(frozen=True)
class Architecture:
    """One architecture, or one kind of kernel of it.

    ``debian``: in the names of packages; ``kernel``: the package that depends on the newest kernel;
    ``debug``: whether the packages with debugging information are worth their size;
    ``gnu``: the name of its compiler's target; ``multiarch``: that of Debian's folders of libraries, if it is
    another; ``cross``: False for this machine's own gcc;
    ``packages``: what the toolbox needs more; ``flags``: of the compiler for the workload;
    ``compat``: the prefix of the binutils that build the 32-bit process, "" where there is none;
    ``qemu``: the program and the machine's options; ``cpu``: its -cpu unless told;
    ``memory``: MiB; ``console``: the device; ``capture``: whether a kexec'd kernel saves a dump,
    ``broken_capture``: but of these versions; ``moving``: memory changes while it is saved (moving.py);
    ``captured``: the forms that makedumpfile writes there; ``host_forms``: whether this
    machine's makedumpfile makes more of them.
    """

    name: str
    debian: str
    kernel: str
    qemu: tuple[str, ...]
    console: str
    gnu: str
    debug: bool = True
    cross: bool = True
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    compat: str = ""
    cpu: str = "max"
    memory: int = 768
    capture: bool = True
    broken_capture: tuple[str, ...] = ()
    moving: bool = False
    captured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    host_forms: bool = False
    multiarch: str = ""

    @property
    def key(self) -> tuple[tuple[str, object], ...]:
        """What its dumps depend on: a field that is added changes only those that do not have its default."""
        row = ((field, getattr(self, field.name)) for field in fields(self))
        return tuple((field.name, value) for field, value in row if value and value != field.default)

    @property
    def big_endian(self) -> bool:
        """Whether a word's highest byte comes first."""
        return self.debian in ("s390x", "ppc64")

    def captures(self, version: str) -> bool:
        """Whether a kernel of this version leaves a dump when it panics."""
        return self.capture and version not in self.broken_capture

    @property
    def folder(self) -> str:
        """Of its own sources, below guest/."""
        return self.debian


AMD64 = Architecture(
    name="amd64",
    debian="amd64",
    kernel="linux-image-cloud-amd64",
    qemu=("qemu-system-x86_64", "-device", "vmcoreinfo"),
    console="ttyS0",
    gnu="x86_64-linux-gnu",
    cross=False,
    compat="x86",
    captured=CAPTURED,
    host_forms=True,
)

# makedumpfile refuses pages of 4 KiB with 52 bits of virtual address, which Debian's kernels are built for.
ARM64 = Architecture(
    name="arm64",
    debian="arm64",
    kernel="linux-image-cloud-arm64",
    qemu=("qemu-system-aarch64", "-machine", "virt,gic-version=3", "-nic", "none", "-device", "vmcoreinfo"),
    console="ttyAMA0",
    gnu="aarch64-linux-gnu",
    packages=(
        "qemu-system-arm",
        "gcc-aarch64-linux-gnu",
        "libc6-dev-arm64-cross",
        "binutils-arm-linux-gnueabihf",
        "gdb-multiarch",
    ),
    flags=("-mbranch-protection=standard",),
    compat="arm-linux-gnueabihf",
    broken_capture=("6.1",),  # kexec finds no _text there: /proc/vmcore is of nonsense size
)

# Debian's kernel has no CONFIG_KEXEC, and the machine no fw_cfg: VMCOREINFO is in memory only.
S390X = Architecture(
    name="s390x",
    debian="s390x",
    kernel="linux-image-s390x",
    qemu=("qemu-system-s390x", "-machine", "s390-ccw-virtio", "-nic", "none"),
    console="ttysclp0",
    gnu="s390x-linux-gnu",
    packages=("qemu-system-s390x", "gcc-s390x-linux-gnu", "libc6-dev-s390x-cross", "gdb-multiarch"),
    memory=512,
    capture=False,
)

# Its capture kernel leaves out part of the memory, and no fw_cfg device brings VMCOREINFO.
RISCV64 = Architecture(
    name="riscv64",
    debian="riscv64",
    kernel="linux-image-riscv64",
    qemu=("qemu-system-riscv64", "-machine", "virt", "-nic", "none"),
    console="ttyS0",
    gnu="riscv64-linux-gnu",
    debug=False,
    packages=(
        "qemu-system-riscv",
        "opensbi",
        "gcc-riscv64-linux-gnu",
        "libc6-dev-riscv64-cross",
        "gdb-multiarch",
    ),
    memory=512,
    capture=False,
)

# Without ACPI, which the firmware brings, i8042's driver touches ports that there are not. Debian has no
# makedumpfile for it, and its kernel no BTF: types are in the debug package only, of 1 GB.
LOONG64 = Architecture(
    name="loong64",
    debian="loong64",
    kernel="linux-image-loong64",
    qemu=(
        *("qemu-system-loongarch64", "-machine", "virt", "-nic", "none"),
        *("-bios", "/usr/share/qemu-efi-loongarch64/QEMU_EFI.fd"),
    ),
    console="ttyS0",
    gnu="loongarch64-linux-gnu",
    packages=(
        "qemu-system-misc",
        "qemu-efi-loongarch64",
        "gcc-loongarch64-linux-gnu",
        "libc6-dev-loong64-cross",
        "gdb-multiarch",
    ),
    memory=1024,
    capture=False,
)

# Under TCG there are none of the mitigations that the machine promises by itself. Of radix kernels (power9)
# makedumpfile 1.7.8 reads struct pages from the wrong place, and leaves out pages as poisoned that are not.
PPC64EL = Architecture(
    name="ppc64el",
    debian="ppc64el",
    kernel="linux-image-powerpc64le",
    qemu=(
        "qemu-system-ppc64",
        "-machine",
        "pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken",
        "-nic",
        "none",
    ),
    console="hvc0",
    gnu="powerpc64le-linux-gnu",
    packages=(
        "qemu-system-ppc",
        "gcc-powerpc64le-linux-gnu",
        "libc6-dev-ppc64el-cross",
        "gdb-multiarch",
    ),
    cpu="power9",
    memory=1280,
    moving=True,
    captured={name: CAPTURED[name] for name in ("zlib-d1", "zstd-d31")},
)

# Debian's name of the libraries' folder is not that of the compiler. More memory than the kernel maps.
I386 = Architecture(
    name="i386",
    debian="i386",
    kernel="linux-image-686",
    qemu=("qemu-system-i386", "-device", "vmcoreinfo"),
    console="ttyS0",
    gnu="i686-linux-gnu",
    packages=("gcc-i686-linux-gnu", "libc6-dev-i386-cross", "gdb-multiarch"),
    flags=("-msse2", "-Wl,-rpath,/lib/i686-linux-gnu"),
    memory=1024,
    capture=False,
)

# Short descriptors have no addresses for what the machine keeps above 4 GiB.
ARMHF = Architecture(
    name="armhf",
    debian="armhf",
    kernel="linux-image-armmp",
    qemu=("qemu-system-arm", "-machine", "virt,highmem=off", "-nic", "none", "-device", "vmcoreinfo"),
    console="ttyAMA0",
    gnu="arm-linux-gnueabihf",
    packages=("qemu-system-arm", "gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross", "gdb-multiarch"),
    flags=("-marm",),
    cpu="cortex-a15",
    memory=1024,
    capture=False,
)

ROWS = (
    AMD64,
    replace(AMD64, name="amd64-full", kernel="linux-image-amd64", debug=False, captured={}, capture=False),
    ARM64,
    replace(ARM64, name="arm64-16k", kernel="linux-image-arm64-16k", debug=False, compat=""),
    S390X,
    RISCV64,
    LOONG64,
    PPC64EL,
    # Its large pages are not of the size that the workload takes them to be: for twins only.
    replace(PPC64EL, name="ppc64el-64k", kernel="linux-image-powerpc64le-64k", debug=False, capture=False),
    I386,
    replace(
        I386,
        name="i386-pae",
        kernel="linux-image-686-pae",
        capture=True,
        captured={name: CAPTURED[name] for name in ("zlib-d1", "lzo-d31", "zstd-d31")},
        multiarch="i386-linux-gnu",
    ),
    ARMHF,
    replace(
        ARMHF,
        name="armhf-lpae",
        kernel="linux-image-armmp-lpae",
        qemu=("qemu-system-arm", "-machine", "virt", "-nic", "none", "-device", "vmcoreinfo"),
    ),
)
ARCHITECTURES = {row.name: row for row in ROWS}
