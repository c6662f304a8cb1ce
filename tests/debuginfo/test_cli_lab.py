"""kcrash itself on a real dump, its vmlinux packed, in a folder, on a server, of another build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kcrash.symbols.elffile import ElfFile
from tests.debuginfo.conftest import PACKERS
from tests.debuginfo.server import Server
from tests.lab import lab

pytestmark = pytest.mark.lab
VERSION = "6.12"
FORM = "zlib-d31"
PLAIN = ("bt 1", "p jiffies", "sym init_task", "ps 1")
LINES = ("bt -l 1", "bt -V 1", "whatis schedule", "dis -l schedule 8")


@pytest.fixture(scope="module")
def dumps() -> lab.Dumps:
    if not lab.cached(VERSION):
        pytest.skip(f"NO LAB: python -m tests.lab --kernel {VERSION} makes it; no real dump is looked at")
    return lab.dumps(VERSION, names=[FORM])


@pytest.fixture(scope="module")
def small(dumps: lab.Dumps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vmlinux without DWARF: quick to pack."""
    path = tmp_path_factory.mktemp("small") / "vmlinux"
    subprocess.run(["objcopy", "--strip-debug", dumps.vmlinux, path], check=True)
    return path


def run(
    *files: str | Path, commands: tuple[str, ...] = PLAIN, options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """kcrash on files; its commands, its options, changes of its environment."""
    words = [word for command in commands for word in ("-c", command)]
    argv = [sys.executable, "-m", "kcrash", "-s", *options, *map(str, files), *words]
    return subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.fixture(scope="module")
def expected(dumps: lab.Dumps) -> dict[tuple[str, ...], str]:
    """What it prints with the vmlinux as it is."""
    found: dict[tuple[str, ...], str] = {}
    for commands in (PLAIN, LINES):
        done = run(dumps.vmlinux, dumps.forms[FORM], commands=commands)
        assert done.returncode == 0 and not done.stderr, done.stderr
        found[commands] = done.stdout
    assert "(inlined in) " in found[LINES] and "<optimized out>" in found[LINES]
    return found


def check(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_packed_vmlinux(
    dumps: lab.Dumps, small: Path, expected: dict[tuple[str, ...], str], tmp_path: Path, ending: str
) -> None:
    packed = tmp_path / f"vmlinux{ending}"
    packed.write_bytes(PACKERS[ending](small.read_bytes()))
    check(run(packed, dumps.forms[FORM]), expected[PLAIN])
    unpacked = list((tmp_path / "kcrash-cache" / "debuginfo" / "unpacked").iterdir())
    assert [path.stat().st_size for path in unpacked] == [small.stat().st_size]
    check(run(dumps.forms[FORM], packed), expected[PLAIN])  # any order; and out of the cache now


def test_a_packed_vmlinux_that_is_cut(dumps: lab.Dumps, small: Path, tmp_path: Path) -> None:
    packed = tmp_path / "vmlinux.gz"
    packed.write_bytes(PACKERS[".gz"](small.read_bytes())[:-1000])
    done = run(packed, dumps.forms[FORM])
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and str(packed) in done.stderr
    assert not list((tmp_path / "kcrash-cache" / "debuginfo" / "tmp").iterdir())


def test_a_folder(dumps: lab.Dumps, expected: dict[tuple[str, ...], str]) -> None:
    check(run(dumps.kernel.folder, dumps.forms[FORM], commands=LINES), expected[LINES])


def test_a_folder_without_it(dumps: lab.Dumps, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", dumps.forms[FORM])
    build_id = ElfFile(dumps.vmlinux).build_id
    assert done.returncode == 1 and str(build_id) in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_packed_sections(
    dumps: lab.Dumps, expected: dict[tuple[str, ...], str], tmp_path: Path, kind: str
) -> None:
    packed = tmp_path / "vmlinux"
    command = ["objcopy", f"--compress-debug-sections={kind}", str(dumps.vmlinux), str(packed)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"SKIPPED FOR LACK OF A TOOL: this objcopy does not write {kind} sections")
    assert packed.stat().st_size < dumps.vmlinux.stat().st_size * 2 // 3
    check(run(packed, dumps.forms[FORM], commands=LINES), expected[LINES])


def test_another_build(
    dumps: lab.Dumps, small: Path, expected: dict[tuple[str, ...], str], tmp_path: Path
) -> None:
    """The same kernel under another build-id: all that can tell them apart; --force takes it."""
    ours, theirs = bytes.fromhex(str(ElfFile(small).build_id)), bytes(range(20))
    data = small.read_bytes()
    assert data.count(ours) >= 1
    other = tmp_path / "vmlinux"
    other.write_bytes(data.replace(ours, theirs))
    done = run(other, dumps.forms[FORM])
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1
    assert ours.hex() in done.stderr and theirs.hex() in done.stderr and "--force" in done.stderr
    check(run(other, dumps.forms[FORM], options=("--force",)), expected[PLAIN])
    (tmp_path / "folder").mkdir()
    shutil.copy(other, tmp_path / "folder" / "vmlinux")
    done = run(tmp_path / "folder", dumps.forms[FORM])
    assert done.returncode == 1 and ours.hex() in done.stderr and theirs.hex() in done.stderr


def test_a_server(
    dumps: lab.Dumps, small: Path, expected: dict[tuple[str, ...], str], server: Server, tmp_path: Path
) -> None:
    """Without a vmlinux: fetched by build-id once, and from then on there."""
    build_id = ElfFile(small).build_id
    server.sends(small.read_bytes())
    for _ in range(2):
        check(run(dumps.forms[FORM], DEBUGINFOD_URLS=server.url), expected[PLAIN])
    assert server.asked == [f"/buildid/{build_id}/debuginfo"]
    kept = tmp_path / "kcrash-cache" / "debuginfo" / "buildid" / str(build_id)
    assert kept.stat().st_size == small.stat().st_size


def test_module_debuginfo(dumps: lab.Dumps, tmp_path: Path) -> None:
    """``--mod`` and ``CRASH_MODULE_PATH`` name where module files are; packed ones do."""
    plain = next(dumps.debug_modules.rglob("zram.ko"))
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "zram.ko.xz").write_bytes(PACKERS[".xz"](plain.read_bytes()))
    lone = tmp_path / "elsewhere" / "kernel"
    lone.parent.mkdir()
    lone.symlink_to(dumps.vmlinux)
    commands = ("mod -s zram", "p zram_major", "struct zram.disksize")
    for options, path in ((("--mod", str(folder)), ""), ((), str(folder))):
        done = run(lone, dumps.forms[FORM], commands=commands, options=options, CRASH_MODULE_PATH=path)
        assert done.returncode == 0, done.stderr
        assert "zram_major = $1 = " in done.stdout and "] u64 disksize;" in done.stdout
        assert "/unpacked/" in done.stdout
