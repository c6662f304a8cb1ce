"""The folder where fetched and unpacked files are kept: private, bounded, safe for several processes.

Layout under ``<cache>/debuginfo``::

    buildid/<hex>           fetched by build-id
    unpacked/<key>-<name>   unpacked from a compressed file; the key tells path, size and time of change
    missing/<hex>           servers that did not have a build-id, and when (the file's time)
    tmp/*.part              being written; a name above comes only by rename
    lock/<xx>               one process at a time works on a key that starts with xx

A file's modification time is when it was last used: the longest unused go when the folder is full.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep, time
from types import TracebackType

from kcrash.errors import KcrashError

#: Bytes that the folder may hold.
DEFAULT_LIMIT = 20 << 30
#: Seconds for which "no server has it" is believed (as debuginfod's own client, cache_miss_s).
MISSING_SECONDS = 600
#: Seconds after which a temporary file that nobody writes to is removed.
STALE_SECONDS = 3600
#: Seconds to wait for another process that works on the same file.
LOCK_SECONDS = 1800
#: Zeros written at once from which they become a hole.
HOLE = 4096
_KINDS = ("buildid", "unpacked", "missing", "tmp", "lock")


class Cache:
    """The cache folder. Nothing is made or looked at before it is needed.

    ``root``: the folder, default ``$KCRASH_CACHE/debuginfo``, else the user's cache folder;
    ``limit``: bytes that it may hold. The file just stored is always kept, whatever its size.
    Methods raise KcrashError if the folder cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.limit = limit

    @cached_property
    def _made(self) -> Path:
        """The root, made if need be; refused if someone else could change what is in it."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(self.root)
            for kind in _KINDS:
                (self.root / kind).mkdir(mode=0o700, exist_ok=True)
                _check_owner(self.root / kind)
        except OSError as error:
            raise self.fault(error) from None
        return self.root

    def fault(self, error: OSError) -> KcrashError:
        """The one line that says why the folder cannot be used."""
        return KcrashError(f"cache folder {self.root}: {error.strerror or error}")

    def fetched(self, build_id: str) -> Path:
        """Where the file of a build-id is kept, whether it is there or not."""
        return self.root / "buildid" / build_id

    def unpacked(self, source: Path, variant: str = "") -> Path:
        """Where the unpacked form of a file is kept; changes when the file does. Raises OSError."""
        status = source.stat()
        key = f"{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{variant}"
        digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
        return self.root / "unpacked" / f"{digest}-{source.name[:100]}"

    def lookup(self, path: Path) -> Path | None:
        """``path`` if it is there, noted as used now; else None."""
        with suppress(OSError):
            if stat.S_ISREG(path.lstat().st_mode):
                with suppress(PermissionError):
                    os.utime(path)
                return path
        return None

    def drop(self, path: Path) -> None:
        """Remove an entry that turned out to be bad."""
        with suppress(OSError):
            path.unlink()

    def writing(self, target: Path) -> Writer:
        """A context manager: a file that gets the name ``target`` when it is whole."""
        self._sweep()
        return Writer(self, target)

    def free(self) -> int:
        """Bytes free on the disk."""
        try:
            return shutil.disk_usage(self._made).free
        except OSError as error:
            raise self.fault(error) from None

    # -- bounds

    def _sweep(self) -> None:
        """Remove temporary files that killed processes left."""
        now = time()
        for path in (self._made / "tmp").glob("*.part"):
            with suppress(OSError):
                if now - path.lstat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def trim(self, keep: Path | None = None) -> None:
        """Remove the longest unused files until the rest, ``keep`` included, fits the limit."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.limit:
                return
            if path != keep:
                self.drop(path)
                total -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for kind in ("buildid", "unpacked"):
            for path in (self._made / kind).iterdir():
                with suppress(OSError):
                    status = path.lstat()
                    yield status.st_mtime, _room(status), path

    # -- what no server has

    def missing(self, build_id: str) -> frozenset[str]:
        """Keys of the servers that said a short while ago that they lack ``build_id``."""
        path = self.root / "missing" / build_id
        try:
            if 0 <= time() - path.stat().st_mtime < MISSING_SECONDS:
                return frozenset(path.read_text("ascii").split())
        except (OSError, ValueError):
            pass
        return frozenset()

    def note_missing(self, build_id: str, servers: frozenset[str]) -> None:
        """Remember that these servers (keys of ``server_key``) lack ``build_id``."""
        with self.writing(self.root / "missing" / build_id) as writer:
            writer.write(" ".join(sorted(servers)).encode())
            writer.keep()
        for path in (self._made / "missing").iterdir():
            with suppress(OSError):
                if time() - path.lstat().st_mtime > MISSING_SECONDS:
                    path.unlink()

    # -- one process at a time

    @contextmanager
    def lock(self, target: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold off other processes that would make ``target``; ``waiting`` is called while one does.

        No promise: without file locks, or after half an hour, two may work. Both end with a whole file.
        """
        try:
            fd = os.open(self._made / "lock" / target.name[:2], os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
        except OSError as error:
            raise self.fault(error) from None
        try:
            _flock(fd, waiting)
            yield
        finally:
            os.close(fd)


class Writer:
    """A file under a temporary name; ``keep`` gives it its own, leaving the block without it removes it."""

    def __init__(self, cache: Cache, target: Path) -> None:
        self._cache = cache
        self.target = target
        self.size = 0  # bytes of the file
        self.stored = 0  # bytes that take room on the disk
        self._kept = False
        try:
            fd, name = tempfile.mkstemp(suffix=".part", dir=cache._made / "tmp")
        except OSError as error:
            raise cache.fault(error) from None
        self.path = Path(name)
        self._file = os.fdopen(fd, "wb", buffering=1 << 20)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
        if not self._kept:
            self._cache.drop(self.path)

    def write(self, data: bytes) -> None:
        """Add ``data``; zeros become a hole. Raises KcrashError, for a full disk for instance."""
        try:
            if len(data) < HOLE or data[0] or data.strip(b"\0"):
                self._file.write(data)
                self.stored += len(data)
            else:
                self._file.seek(len(data), os.SEEK_CUR)
        except OSError as error:
            raise self._cache.fault(error) from None
        self.size += len(data)

    def flush(self) -> Path:
        """Write out what is buffered: the file can be looked at. Raises as ``write``."""
        try:
            self._file.truncate(self.size)  # flushes, and the end may be a hole
        except OSError as error:
            raise self._cache.fault(error) from None
        return self.path

    def keep(self) -> Path:
        """Give the file its final name."""
        try:
            self._file.truncate(self.size)
            self._file.close()
            self.path.replace(self.target)
            self._kept = True
        except OSError as error:
            raise self._cache.fault(error) from None
        self._cache.trim(keep=self.target)
        return self.target


def default_root() -> Path:
    """``$KCRASH_CACHE/debuginfo``, else ``debuginfo`` in the user's cache folder of kcrash."""
    own = os.environ.get("KCRASH_CACHE")
    if own:
        return Path(own).expanduser() / "debuginfo"
    from platformdirs import user_cache_path

    return user_cache_path("kcrash") / "debuginfo"


def server_key(url: str) -> str:
    """A short name for a server that does not give away secrets in its address."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]


_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)


def _room(status: os.stat_result) -> int:
    """Bytes that a file takes on the disk: an unpacked dump has holes."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)


def _check_owner(folder: Path) -> None:
    """Refuse someone else's folder (sudo's caller may lend root theirs)."""
    if not hasattr(os, "geteuid"):
        return
    owner, uid = folder.stat().st_uid, os.geteuid()
    lender = os.environ.get("SUDO_UID", "") if uid == 0 else ""
    if owner != uid and str(owner) != lender:
        raise PermissionError(errno.EPERM, "belongs to another user")


def _flock(fd: int, waiting: Callable[[], None] | None) -> None:
    try:
        import fcntl
    except ImportError:
        return
    give_up = monotonic() + LOCK_SECONDS
    while monotonic() < give_up:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if waiting is not None:
                waiting()
            sleep(0.1)
        except OSError:  # a file system without locks
            return
