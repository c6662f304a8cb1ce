"""The cache folder: bounded, private, whole files only, several processes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, time

import pytest

from kcrash.errors import KcrashError
from kcrash.files.cache import MISSING_SECONDS, STALE_SECONDS, Cache, default_root, server_key
from tests.debuginfo.conftest import WANTED, leftovers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def store(cache: Cache, name: str, size: int, age: float = 0) -> Path:
    with cache.writing(cache.fetched(name)) as writer:
        writer.write(b"x" * size)
        path = writer.keep()
    os.utime(path, (time() - age, time() - age))
    return path


def test_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_root() == tmp_path / "kcrash-cache/debuginfo"
    monkeypatch.delenv("KCRASH_CACHE")
    assert default_root() == tmp_path / "xdg/kcrash/debuginfo"
    assert not Cache().root.exists()


def test_longest_unused_go_first(cache: Cache) -> None:
    cache.limit = 250
    old, used = store(cache, "old", 100, age=50), store(cache, "used", 100, age=99)
    assert cache.lookup(used) == used
    new = store(cache, "new", 100)
    assert not old.exists() and used.exists() and new.exists()


def test_what_was_just_stored_stays(cache: Cache) -> None:
    cache.limit = 50
    first = store(cache, "first", 40)
    large = store(cache, "large", 400)
    assert large.exists() and not first.exists()


def test_bound_counts_both_kinds(cache: Cache, tmp_path: Path) -> None:
    cache.limit = 100
    with cache.writing(cache.unpacked(tmp_path)) as writer:
        writer.write(bytes(90))
        unpacked = writer.keep()
    os.utime(unpacked, (1, 1))
    store(cache, "fetched", 90)
    assert not unpacked.exists()


def test_private(cache: Cache) -> None:
    path = store(cache, "x", 1)
    for folder in (cache.root, path.parent, cache.root / "tmp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_without_keep(cache: Cache) -> None:
    with pytest.raises(KeyboardInterrupt), cache.writing(cache.fetched("x")) as writer:
        writer.write(b"half")
        raise KeyboardInterrupt
    with cache.writing(cache.fetched("x")):
        pass
    assert leftovers(cache) == [] and cache.lookup(cache.fetched("x")) is None


def test_leftovers_of_the_killed_go(cache: Cache) -> None:
    store(cache, "x", 1)
    for name, age in (("old.part", STALE_SECONDS + 9), ("young.part", 9)):
        (cache.root / "tmp" / name).write_bytes(b"half")
        os.utime(cache.root / "tmp" / name, (time() - age, time() - age))
    store(cache, "y", 1)
    assert leftovers(cache) == ["young.part"]


def test_links_are_no_entries(cache: Cache, tmp_path: Path) -> None:
    store(cache, "x", 1)
    cache.fetched("link").symlink_to(tmp_path)
    assert cache.lookup(cache.fetched("link")) is None


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KcrashError, match=f"^cache folder {tmp_path}/file: .*exists"):
        store(Cache(tmp_path / "file"), "x", 1)
    with pytest.raises(KcrashError, match="Not a directory"):
        store(Cache(tmp_path / "file/below"), "x", 1)


@as_root
def test_someone_elses_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(KcrashError, match="belongs to another user"):
        store(Cache(tmp_path / "theirs"), "x", 1)
    monkeypatch.setenv("SUDO_UID", "12345")
    assert store(Cache(tmp_path / "theirs"), "x", 1)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tiny", folder]).returncode:
        pytest.skip("cannot mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@as_root
@pytest.mark.skipif(not shutil.which("mount"), reason="needs mount")
def test_full_disk(tiny_disk: Path) -> None:
    cache = Cache(tiny_disk / "cache")
    kept = store(cache, "small", 1000)
    with pytest.raises(KcrashError, match=f"^cache folder {cache.root}: No space left on device$"):
        store(cache, "large", 2 << 20)
    assert leftovers(cache) == [] and kept.stat().st_size == 1000
    with pytest.raises(KcrashError, match="No space left"):  # all in the buffer until keep
        store(cache, "large", (1 << 20) - 1)
    assert leftovers(cache) == [] and not cache.fetched("large").exists()


def test_missing_is_forgotten(cache: Cache) -> None:
    keys = frozenset(map(server_key, ("http://a", "http://b")))
    assert cache.missing(WANTED) == frozenset()
    cache.note_missing(WANTED, keys)
    assert cache.missing(WANTED) == keys
    path = cache.root / "missing" / WANTED
    for age in (MISSING_SECONDS + 1, -3600):  # the clock may have been set back
        os.utime(path, (time() - age, time() - age))
        assert cache.missing(WANTED) == frozenset()
    os.utime(path, (0, 0))
    cache.note_missing("other", keys)
    assert not path.exists()
    path.write_bytes(b"\xff\xfe")
    assert cache.missing(WANTED) == frozenset()


HOLDER = """
import sys
from kcrash.debuginfo import Cache
cache = Cache(sys.argv[1])
with cache.lock(cache.fetched("ab" * 20)):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_holds_off_another_process(cache: Cache) -> None:
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", HOLDER, str(cache.root)]
    waits: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == b"held\n"

        def waiting() -> None:
            waits.append(monotonic())
            if len(waits) == 3:
                other.kill()  # the lock goes with its holder

        with cache.lock(cache.fetched("cd" * 20), lambda: pytest.fail("another key")):
            pass
        with cache.lock(cache.fetched(WANTED), waiting):
            assert len(waits) >= 3
