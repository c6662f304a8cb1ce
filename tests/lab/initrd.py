"""Initial RAM disks: the first kernel's, with the workload, and the capture kernel's."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.kernels import CAPTURE_MODULES, MODULES, Kernel
from tests.lab.toolbox import Toolbox

GUEST = Path(__file__).parent / "guest"
# Name of a form -> makedumpfile's options.
Captured = Mapping[str, Sequence[str]]

FILE, FOLDER, LINK = 0o100755, 0o040755, 0o120777

RUN_TOOL = '#!/bin/sh\nexec /tools/loader --library-path /tools /tools/{name} "$@"\n'


class Archive:
    """A cpio archive, newc form (kernel: Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[str] = set()

    def add(self, path: str, data: bytes, mode: int = FILE) -> None:
        """A file; its folders come by themselves."""
        path = path.lstrip("/")
        for parent in reversed(Path(path).parents[:-1]):
            self._folder(str(parent))
        self._entry(path, data, mode)

    def add_file(self, path: str, source: Path) -> None:
        """A file of this machine."""
        self.add(path, source.read_bytes())

    def _folder(self, path: str) -> None:
        if path not in self._known:
            self._known.add(path)
            self._entry(path, b"", FOLDER)

    def _entry(self, path: str, data: bytes, mode: int) -> None:
        name = path.encode() + b"\0"
        numbers = (len(self._parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._parts.append(_padded(head) + _padded(data))

    def packed(self) -> bytes:
        """The archive, compressed."""
        self._entry("TRAILER!!!", b"", 0)
        return gzip.compress(b"".join(self._parts), compresslevel=1, mtime=0)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def build_workload(sysroot: Path) -> None:
    """Compiles the workload; lays it and its libraries out as the guest sees them."""
    target = sysroot / "bin" / "workload"
    target.parent.mkdir(parents=True)
    sources = sorted(str(path) for path in GUEST.glob("*.[cS]"))
    subprocess.run(["gcc", "-g", "-O1", "-pthread", "-o", str(target), *sources], check=True)
    _build_compat(target.with_name("compat32"))
    for library in _libraries(target):
        copy = sysroot / str(library).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(library.read_bytes())
        copy.chmod(0o755)


def _build_compat(target: Path) -> None:
    """The 32-bit process: no library, fixed addresses."""
    places = [
        f"-Wl,--section-start=.{name}={at}" for name, at in (("park", "0x8050000"), ("stack", "0x8060000"))
    ]
    source = str(GUEST / "compat" / "compat32.S")
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", *places, "-o", str(target), source], check=True)


def _libraries(program: Path) -> list[Path]:
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(", listed)]


def first(kernel: Kernel, box: Toolbox, sysroot: Path, captured: Captured) -> bytes:
    """What the crashing kernel starts from; captured: the forms the capture kernel writes."""
    archive = _base(kernel, box, MODULES, "init")
    for path in sorted(sysroot.rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(sysroot)), path)
    _add_tool(archive, box, "kexec")
    archive.add_file("vmlinuz", kernel.image)
    archive.add("capture.gz", _capture(kernel, box, captured))
    return archive.packed()


def _capture(kernel: Kernel, box: Toolbox, captured: Captured) -> bytes:
    archive = _base(kernel, box, CAPTURE_MODULES, "init-capture")
    _add_tool(archive, box, "makedumpfile")
    lines = (" ".join([name, *options]) + "\n" for name, options in captured.items())
    archive.add("captured", "".join(lines).encode())
    return archive.packed()


def _base(kernel: Kernel, box: Toolbox, modules: tuple[str, ...], init: str) -> Archive:
    archive = Archive()
    archive.add_file("init", GUEST / init)
    archive.add_file("bin/busybox", box.root / "usr/bin/busybox")
    for number, name in enumerate(modules):
        if (data := kernel.module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    return archive


def _add_tool(archive: Archive, box: Toolbox, tool: str) -> None:
    """A program with the toolbox's own C library: the workload's is this machine's."""
    program = box.which(tool)
    archive.add_file(f"tools/{tool}", box.root / program.lstrip("/"))
    for library in box.libraries(program):
        name = "loader" if library.name.startswith("ld-linux") else library.name
        archive.add_file(f"tools/{name}", library)
    archive.add(f"bin/{tool}", RUN_TOOL.format(name=tool).encode())
