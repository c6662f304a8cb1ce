"""The cache folder: things made once, under a lock, complete or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

Make = Callable[[Path], None]
PART = ".part-"


def root() -> Path:
    """$KCRASH_LAB_CACHE, else ~/.cache/kcrash/lab; made when missing."""
    default = Path.home() / ".cache" / "kcrash" / "lab"
    folder = Path(os.environ.get("KCRASH_LAB_CACHE") or default).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts: object) -> str:
    """Twelve hex digits for what made a thing: values by repr, paths by their files' bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(_bytes_of(part) + b"\0")
    return total.hexdigest()[:12]


def _bytes_of(part: object) -> bytes:
    if not isinstance(part, Path):
        return repr(part).encode()
    files = sorted(part.iterdir()) if part.is_dir() else [part]
    return b"\0".join(f.name.encode() + b"\0" + f.read_bytes() for f in files if f.is_file())


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    locks = root() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name.replace("/", "_")).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(name: str, make: Make) -> Path:
    """root()/name, made by make(temporary path) when it is not there; name may hold folders."""
    target = root() / name
    if target.exists():
        return target
    with locked(name):
        if not target.exists():
            _make(target, make)
    return target


def final(part: Path) -> Path:
    """What the temporary path that a Make is given becomes."""
    return part.with_name(part.name.removeprefix(PART))


def _make(target: Path, make: Make) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(PART + target.name)
    remove(part)  # left by a process that died: the lock is ours, so nobody makes it now
    try:
        make(part)
        part.rename(target)
    finally:
        remove(part)


def remove(path: Path) -> None:
    """A file or a folder with all it holds; nothing when missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
