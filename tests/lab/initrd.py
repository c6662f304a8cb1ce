"""Initial RAM disks: the first kernel's, with the workload, and the capture kernel's."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.architectures import Architecture
from tests.lab.kernels import CAPTURE_MODULES, MODULES, Kernel
from tests.lab.libraries import find, interpreter, needed
from tests.lab.toolbox import Toolbox, guest_root, program

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


def sources(arch: Architecture) -> tuple[Path, ...]:
    """Folders with the sources of all that runs in the guests of an architecture."""
    own = GUEST / arch.folder
    return GUEST, own, own / "compat"


def build_workload(sysroot: Path, box: Toolbox, arch: Architecture) -> None:
    """Compiles the workload; lays it and its libraries out as the guest sees them."""
    target = sysroot / "bin" / "workload"
    target.parent.mkdir(parents=True)
    own = GUEST / arch.folder
    code = sorted([*GUEST.glob("*.c"), *own.glob("*.[cS]")])
    includes = [f"-I{GUEST}", f"-I{own}"]
    _tool(box, arch, "gcc", ["-g", "-O1", "-pthread", *arch.flags, *includes, "-o", target, *code])
    if arch.compat:
        _build_compat(box, arch, target.with_name("compat32"))
    _lay_out(sysroot, target, box, arch)


def _tool(box: Toolbox, arch: Architecture, tool: str, words: Sequence[str | Path], prefix: str = "") -> None:
    """Runs a compiler's tool: this machine's own, or the toolbox's for another architecture."""
    if not arch.cross:
        subprocess.run([tool, *words], check=True)
        return
    output = words[words.index("-o") + 1]
    done = box.run([f"{prefix or arch.gnu}-{tool}", *words], binds=[GUEST, Path(output).parent])
    if done.returncode:
        raise RuntimeError(f"{tool} for {arch.name}: {done.stderr[-2000:]}")


def _build_compat(box: Toolbox, arch: Architecture, target: Path) -> None:
    """The 32-bit process: no library, fixed addresses."""
    source = GUEST / arch.folder / "compat" / "compat32.S"
    places = [f"--section-start=.{name}={at}" for name, at in (("park", "0x8050000"), ("stack", "0x8060000"))]
    if not arch.cross:
        words = ["-m32", "-nostdlib", "-static", *(f"-Wl,{place}" for place in places)]
        _tool(box, arch, "gcc", [*words, "-o", target, source])
        return
    compiled = target.with_suffix(".o")
    _tool(box, arch, "as", ["-o", compiled, source], arch.compat)
    _tool(box, arch, "ld", [*places, "-o", target, compiled], arch.compat)
    compiled.unlink()


def _lay_out(sysroot: Path, program: Path, box: Toolbox, arch: Architecture) -> None:
    """The workload's loader and libraries, where the guest looks for them."""
    base = box.root if arch.cross else Path("/")
    names = (f"usr/{arch.gnu}/lib", f"lib/{arch.gnu}", f"usr/lib/{arch.gnu}", "lib64", "usr/lib64", "usr/lib")
    folders = [base / name for name in names]
    loader = interpreter(program)
    places = {library: f"lib/{arch.gnu}/{library.name}" for library in needed(program, folders)}
    places[find(Path(loader).name, folders)] = loader.lstrip("/")
    for library, place in places.items():
        copy = sysroot / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(library.read_bytes())
        copy.chmod(0o755)


def first(kernel: Kernel, sysroot: Path, captured: Captured) -> bytes:
    """What the crashing kernel starts from; captured: the forms the capture kernel writes."""
    archive = _base(kernel, MODULES, "init")
    for path in sorted(sysroot.rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(sysroot)), path)
    if kernel.captures:
        _add_tool(archive, kernel.arch, "kexec")
        archive.add_file("vmlinuz", kernel.image)
        archive.add("capture.gz", _capture(kernel, captured))
    return archive.packed()


def _capture(kernel: Kernel, captured: Captured) -> bytes:
    archive = _base(kernel, CAPTURE_MODULES, "init-capture")
    _add_tool(archive, kernel.arch, "makedumpfile")
    lines = (" ".join([name, *options]) + "\n" for name, options in captured.items())
    archive.add("captured", "".join(lines).encode())
    return archive.packed()


def _base(kernel: Kernel, modules: tuple[str, ...], init: str) -> Archive:
    archive = Archive()
    archive.add_file("init", GUEST / init)
    archive.add_file("bin/busybox", program(guest_root(kernel.arch), "busybox"))
    for number, name in enumerate(modules):
        if (data := kernel.module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    return archive


def _add_tool(archive: Archive, arch: Architecture, tool: str) -> None:
    """A program with Debian sid's C library: the workload's is this machine's, or the cross compiler's."""
    root = guest_root(arch)
    found = program(root, tool)
    folders = [root / name for name in (f"usr/lib/{arch.gnu}", "usr/lib", "usr/lib64")]
    archive.add_file(f"tools/{tool}", found)
    archive.add_file("tools/loader", find(Path(interpreter(found)).name, folders))
    for library in needed(found, folders):
        archive.add_file(f"tools/{library.name}", library)
    archive.add(f"bin/{tool}", RUN_TOOL.format(name=tool).encode())
