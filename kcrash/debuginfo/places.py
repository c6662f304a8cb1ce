"""Where kernels and modules with debuginfo lie: names to look at, nothing is opened here.

A *tree* is a folder laid out as "/" is, as packages unpack to: "/" itself, the root of an unpacked package,
or a debug directory such as /usr/lib/debug.

- Debian to 12, Ubuntu: /usr/lib/debug/boot/vmlinux-R; Debian 13: also /usr/lib/debug/lib/modules/R/vmlinux
- Fedora, RHEL: /usr/lib/debug/lib/modules/R/vmlinux, modules in .../kernel/**/x.ko.debug
- SUSE: /usr/lib/debug/boot/vmlinux-R.debug, /usr/lib/debug/usr/lib/modules/R/vmlinux.debug,
  /boot/vmlinux-R.xz
- Arch: /usr/lib/modules/R/build/vmlinux; built from source: /lib/modules/R/build/vmlinux
- all: .build-id/xx/yyyy.debug in debug directories, and the cache of elfutils' debuginfod client
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: What a name may end in, besides the name itself.
PACKED = ("", ".xz", ".gz", ".zst", ".bz2")
#: Entries that a search through a whole tree looks at.
MAX_ENTRIES = 400_000
_KERNEL_STEMS = (
    "usr/lib/debug/boot/vmlinux-{}",
    "usr/lib/debug/lib/modules/{}/vmlinux",
    "usr/lib/debug/usr/lib/modules/{}/vmlinux",
    "usr/lib/debug/vmlinux-{}",
    "lib/modules/{}/vmlinux",
    "usr/lib/modules/{}/vmlinux",
    "lib/modules/{}/build/vmlinux",
    "usr/lib/modules/{}/build/vmlinux",
    "lib/modules/{}/source/vmlinux",
    "boot/vmlinux-{}",
    "usr/src/kernels/{}/vmlinux",
    "usr/src/linux-{}/vmlinux",
)
#: In a given folder that is no tree: a build tree, a module folder, a folder of kernels.
_KERNEL_DIRECT = ("vmlinux-{}", "vmlinux", "{}/vmlinux", "{}/vmlinux-{}", "build/vmlinux")
_BUILD_IDS = ("usr/lib/debug/.build-id", ".build-id", "usr/lib/.build-id")
_MODULE_BASES = (
    "usr/lib/debug/lib/modules/{}",
    "usr/lib/debug/usr/lib/modules/{}",
    "lib/modules/{}",
    "usr/lib/modules/{}",
)
_MODULE = re.compile(r"(.+?)\.ko(\.debug)?(\.xz|\.gz|\.zst|\.bz2)?")
#: As depmod.d(5) searches by default.
_FIRST = {"updates": 0, "extra": 1, "weak-updates": 2, "kernel": 3}
_NO_MODULES = {"build", "source", ".build-id", "proc", "sys", "dev"}


def is_release(text: str) -> bool:
    """Whether a kernel release (the dump tells it) is fit to be part of a path."""
    return re.fullmatch(r"[A-Za-z0-9_+~:@-][A-Za-z0-9._+~:@-]{0,254}", text) is not None


def kernel_names(release: str) -> Iterator[str]:
    """Where in a tree the vmlinux of ``release`` may be, the likeliest to have DWARF first."""
    for stem in _KERNEL_STEMS if release else ():
        for ending in ("", ".debug"):
            for packed in PACKED:
                yield stem.format(release) + ending + packed


def tree_of_kernel(vmlinux: Path, release: str) -> Path | None:
    """The root of the tree in which a vmlinux has a usual place; None if its place is an unusual one."""
    for name in kernel_names(release):
        depth = name.count("/") + 1
        if len(vmlinux.parts) > depth and vmlinux.parts[-depth:] == tuple(name.split("/")):
            return vmlinux.parents[depth - 1]
    return None


def direct_names(release: str) -> Iterator[str]:
    """Where a given folder that is no tree may have its vmlinux."""
    for stem in _KERNEL_DIRECT:
        if release or "{}" not in stem:
            for ending in ("", ".debug"):
                for packed in PACKED:
                    yield stem.format(release, release) + ending + packed


def build_id_names(build_id: str) -> Iterator[str]:
    """Where in a tree the file of a build-id may be (gdb: "Separate Debug Files")."""
    for folder in _BUILD_IDS:
        for ending in (".debug", ""):
            yield f"{folder}/{build_id[:2]}/{build_id[2:]}{ending}"


def client_caches(environ: Mapping[str, str] | None = None) -> Iterator[Path]:
    """The folders in which elfutils' debuginfod client keeps what it fetched: ``<hex>/debuginfo``."""
    env = os.environ if environ is None else environ
    if env.get("DEBUGINFOD_CACHE_PATH"):
        yield Path(env["DEBUGINFOD_CACHE_PATH"])
    if env.get("XDG_CACHE_HOME"):
        yield Path(env["XDG_CACHE_HOME"]) / "debuginfod_client"
    with suppress(RuntimeError):  # no home
        yield Path.home() / ".cache" / "debuginfod_client"


def walk_files(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Files under a folder, links to folders not followed; stops after MAX_ENTRIES."""
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skip)
        seen += len(folders) + len(files)
        for name in sorted(files):
            yield Path(folder, name)
        if seen > MAX_ENTRIES:
            return


def kernels_below(root: Path) -> Iterator[Path]:
    """Files called vmlinux-something anywhere in a given folder."""
    name = re.compile(r"vmlinux([-.].*)?")
    return (path for path in walk_files(root) if name.fullmatch(path.name))


# -- modules


def module_key(name: str) -> str:
    """A module's name as the kernel has it: "-" in file names is "_"."""
    return name.replace("-", "_")


def module_of(file_name: str) -> str | None:
    """The module that a file name is for, None if it is no module's."""
    match = _MODULE.fullmatch(file_name)
    return module_key(match[1]) if match else None


def module_bases(tree: Path, release: str) -> list[Path]:
    """The folders of a tree in which modules of ``release`` lie, each once."""
    found: dict[Path, Path] = {}
    for name in _MODULE_BASES if release else ():
        base = tree / name.format(release)
        if base.is_dir():
            found.setdefault(base.resolve(), base)
    return list(found.values())


def modules_below(base: Path) -> dict[str, list[Path]]:
    """Module files in a folder by module, in depmod's order."""
    found: dict[str, list[Path]] = {}
    for path in walk_files(base, frozenset(_NO_MODULES)):
        name = module_of(path.name)
        if name is not None:
            found.setdefault(name, []).append(path)
    for paths in found.values():
        paths.sort(key=lambda path: _rank(path.relative_to(base)))
    return found


def _rank(path: Path) -> tuple[int, bool]:
    """Debug files before the stripped ones beside them."""
    return _FIRST.get(path.parts[0], 4), ".debug" not in path.suffixes


def modules_dep(base: Path) -> dict[str, str]:
    """Module files by module as depmod listed them: paths below ``base``, not packed; empty without a list.

    modules.dep(5): "path: paths it depends on", a line each.
    """
    try:
        with (base / "modules.dep").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(32 << 20).splitlines()
    except OSError:
        return {}
    paths = (line.partition(":")[0] for line in lines)
    return {
        name: path[: path.rindex(".ko") + 3]
        for path in paths
        if (name := module_of(path.rpartition("/")[2])) and _stays_below(path)
    }


def _stays_below(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def module_names(path: str) -> Sequence[str]:
    """The forms in which ``path``, an x.ko, may lie in a tree."""
    return [path + ending + packed for ending in (".debug", "") for packed in PACKED]
