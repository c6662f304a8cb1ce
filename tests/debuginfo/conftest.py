"""Small real ELF files with build-ids, and a cache of one's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kcrash.debuginfo import Cache, Finder
from tests.debuginfo.server import Server

WANTED = "ab" * 20
OTHER = "cd" * 20
RELEASE = "6.1.0-50-test+deb12"

#: Puts an ELF file at a path: kind is "exec", "module", "stripped" or "debug"; build_id None is none at all.
Place = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str | None], Path]:
    """An ELF file of a kind and build-id, compiled once."""
    folder = tmp_path_factory.mktemp("compiled")
    source = folder / "start.c"
    source.write_text("struct task { int pid; } init_task; void _start(void) { init_task.pid++; }\n")
    made: dict[tuple[str, str | None], Path] = {}

    def make(kind: str, build_id: str | None) -> Path:
        if (kind, build_id) not in made:
            made[kind, build_id] = _compile(source, folder / f"{kind}-{build_id}", kind, build_id)
        return made[kind, build_id]

    return make


def _compile(source: Path, path: Path, kind: str, build_id: str | None) -> Path:
    note = "-Wl,--build-id=" + (f"0x{build_id}" if build_id else "none")
    form = ["-r"] if kind == "module" else ["-static", "-no-pie"]
    subprocess.run(["gcc", "-g", "-nostdlib", *form, note, "-o", path, source], check=True)
    if kind == "stripped":
        subprocess.run(["objcopy", "--strip-debug", path], check=True)
    elif kind == "debug":
        subprocess.run(["objcopy", "--only-keep-debug", path], check=True)
    return path


@pytest.fixture
def place(compiled: Callable[[str, str | None], Path]) -> Place:
    def put(path: Path, build_id: str | None = WANTED, kind: str = "exec") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = compiled(kind, build_id)
        packer = PACKERS.get(path.suffix)
        if packer is None:
            shutil.copyfile(plain, path)
        else:
            path.write_bytes(packer(plain.read_bytes()))
        return path

    return put


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, 1)


def _xz(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data, preset=0)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


def _bzip2(data: bytes) -> bytes:
    import bz2

    return bz2.compress(data, 1)


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": _gzip, ".xz": _xz, ".zst": _zstd, ".bz2": _bzip2}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees this machine's caches, servers or proxies."""
    for name in ("URLS", "TIMEOUT", "MAXTIME", "MAXSIZE", "HEADERS_FILE", "CACHE_PATH"):
        monkeypatch.delenv(f"DEBUGINFOD_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KCRASH_CACHE", str(tmp_path / "kcrash-cache"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def finder(tmp_path: Path, cache: Cache) -> Finder:
    """Searches ``tmp_path/root`` as if it were "/", asks no server."""
    return Finder.make(dirs=[tmp_path / "root"], servers=(), cache=cache)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def leftovers(cache: Cache) -> list[str]:
    """Files under any name but a final one."""
    return [path.name for path in cache.root.glob("tmp/*")]
