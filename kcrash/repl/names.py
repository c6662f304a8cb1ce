"""Names of a vmlinux for completion, listed by a process of its own: ``-m kcrash.repl.names VMLINUX``.

Without BTF, listing the types means a walk of all DWARF units, which takes
many seconds; in a thread it would hold up the prompt. The result is text
(``S symbol`` or ``T type`` a line) and is kept in the cache by build-id.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError

if TYPE_CHECKING:
    from kcrash.symbols.elffile import ElfFile
    from kcrash.types.source import TypeSource

_TYPES = ("struct", "union", "typedef")


def list_names(vmlinux: str) -> Iterator[str]:
    """The names, symbols first."""
    from kcrash.symbols.elffile import ElfFile
    from kcrash.symbols.table import ElfSymbols

    elf = ElfFile(vmlinux)
    for symbol in ElfSymbols(elf).all():
        yield f"S {symbol.name}"
    source = _types(elf)
    for kind in _TYPES:
        for name in source.names(kind):
            yield f"T {name}"


def _types(elf: ElfFile) -> TypeSource:
    blob = elf.section_data(".BTF")
    if blob is not None:
        from kcrash.types.btf import BtfSource

        return BtfSource(blob, elf.path, pointer_size=elf.word_bits // 8)
    from kcrash.types.dwarf import DwarfSource

    return DwarfSource(elf)


class Listing:
    """The names of a vmlinux, from the cache or from a process that is started for it."""

    def __init__(self, vmlinux: str, build_id: str | None) -> None:
        self._vmlinux = vmlinux
        self._cache = cache_file(build_id) if build_id else None
        self._process: subprocess.Popen[str] | None = None

    def read(self) -> tuple[list[str], list[str]]:
        """Sorted symbols and types; may take long."""
        lines = self._cached()
        if lines is None:
            lines = self._listed()
        chosen: dict[str, set[str]] = {"S": set(), "T": set()}
        for line in lines:
            kind, _, name = line.partition(" ")
            chosen.setdefault(kind, set()).add(name)
        return sorted(chosen["S"]), sorted(chosen["T"])

    def stop(self) -> None:
        """End the process if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _cached(self) -> list[str] | None:
        try:
            return self._cache.read_text("utf-8").splitlines() if self._cache else None
        except (OSError, UnicodeDecodeError):
            return None

    def _listed(self) -> list[str]:
        command = [sys.executable, "-m", __name__, self._vmlinux]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,  # Ctrl-C at the prompt is not for it
        ) as self._process:
            assert self._process.stdout is not None
            lines = self._process.stdout.read().splitlines()
        if self._process.returncode == 0 and self._cache:
            _keep(self._cache, lines)
        return lines


def cache_file(build_id: str) -> Path | None:
    """Where the names of a build are kept; None if there can be no such folder."""
    from platformdirs import user_cache_path

    folder = user_cache_path("kcrash") / "names"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / build_id if build_id.isalnum() else None


def _keep(path: Path, lines: list[str]) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        new.write_text("\n".join(lines), "utf-8")
        new.replace(path)
    except OSError:
        return


def main() -> int:
    """Print the names of the vmlinux given."""
    os.nice(10)
    try:
        sys.stdout.writelines(name + "\n" for name in list_names(sys.argv[1]))
    except (KcrashError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
