"""Opening files that are not what they should be: one clear line, exit status 1, no traceback.

On real dumps: cut anywhere, with bytes of their headers flipped, with the wrong vmlinux, without permission.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kcrash.errors import KcrashError
from kcrash.linux.tasks import task_table
from kcrash.session import open_session
from tests.lab import lab

KERNEL = "6.1"
COMMANDS = ("sys", "ps", "log", "mod", "foreach bt", "struct task_struct init_task")
FORMS = ("zlib-d31", "elf")
PAGE = 4096
BROKEN = re.compile("beyond the end of the dump file|ends within|end beyond the file's|no VMCOREINFO")


def dumps_of(version: str) -> lab.Dumps:
    """The lab's dumps of a kernel; a loud skip where they are not made yet."""
    if not lab.cached(version) and not os.environ.get("KCRASH_LAB"):
        pytest.skip(f"no dumps of {version} yet: python -m tests.lab makes them, or set KCRASH_LAB=1")
    return lab.dumps(version, names=FORMS)


@pytest.fixture(scope="module")
def dumps() -> lab.Dumps:
    return dumps_of(KERNEL)


def kcrash(
    *words: str | Path, commands: Sequence[str] = COMMANDS, by: Sequence[str] = ()
) -> tuple[int, str, str]:
    """``(exit status, output, errors)`` of the program on files."""
    lines = [word for command in commands for word in ("-c", command)]
    argv = [*by, sys.executable, "-m", "kcrash", "-s", *map(str, words), *lines]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def refused(*words: str | Path, by: Sequence[str] = ()) -> str:
    """The one line that files are refused with."""
    status, output, errors = kcrash(*words, by=by)
    assert (status, output) == (1, "")
    assert errors.startswith("kcrash: ") and errors.count("\n") == 1, errors
    return errors.removeprefix("kcrash: ").rstrip()


@pytest.fixture(scope="module", params=FORMS)
def copy(
    request: pytest.FixtureRequest, dumps: lab.Dumps, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A copy of a dump, holes kept."""
    target = tmp_path_factory.mktemp("copy") / request.param
    subprocess.run(["cp", "--sparse=always", dumps.forms[request.param], target], check=True)
    yield target
    target.unlink()


# -- a byte of a header is flipped


# What says how to read the file: struct disk_dump_header but for the names of the machine, and struct
# kdump_sub_header in the next block (makedumpfile's IMPLEMENTATION); the ELF header, its first five program
# headers, and notes.
HEADERS = {
    "zlib-d31": ((0, 12, 12), (0x190, 0x1CC, 40), (PAGE, PAGE + 0x80, 24), (2 * PAGE, 4 * PAGE, 4)),
    "elf": ((0, 64, 30), (64, 64 + 5 * 56, 40), (PAGE, PAGE + 0x800, 10)),
}


def places(path: Path) -> list[int]:
    """Offsets of bytes to flip."""
    chance = random.Random(f"flips of {path.name}")
    parts = HEADERS[path.name]
    return [place for start, end, count in parts for place in chance.sample(range(start, end), count)]


def used(files: Sequence[str]) -> str:
    """What comes of opening files and asking for tasks."""
    try:
        session = open_session(files)
    except (KcrashError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    try:
        return f"{len(task_table(session).tasks)} tasks of {session.release_hint}"
    except KcrashError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        session.close()


def test_a_flipped_byte_in_a_header(copy: Path, dumps: lab.Dumps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", "")
    files = [str(dumps.vmlinux), str(copy)]
    whole = used(files)
    assert re.match(r"\d+ tasks of 6\.1", whole), whole
    chance, outcomes = random.Random(f"values for {copy.name}"), []
    with copy.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for place in places(copy):
            old = data[place]
            data[place] = old ^ chance.choice([0xFF, 0x80, 1, 0x40, old or 1])
            outcomes.append(used(files))
            data[place] = old
    assert used(files) == whole
    assert all("\n" not in outcome for outcome in outcomes)
    assert len(set(outcomes)) > 8, "the flips did not reach the reader"


# -- the end is missing


def offsets(path: Path) -> list[int]:
    """Where to cut, from the end on."""
    chance, size = random.Random(f"cuts of {path.name}"), path.stat().st_size
    powers = [1 << bit for bit in range(3, size.bit_length(), 3)]
    return sorted(
        {size - 1, size - PAGE, 64 + 8, 0x1001, *powers, *(chance.randrange(size) for _ in range(5))}
    )[::-1]


def test_a_dump_cut_anywhere(copy: Path, dumps: lab.Dumps) -> None:
    status, whole, errors = kcrash(dumps.vmlinux, copy)
    assert (status, errors) == (0, "")
    outcomes = set()
    for offset in offsets(copy):
        os.truncate(copy, offset)
        status, output, errors = kcrash(dumps.vmlinux, copy)
        outcomes.add(status)
        if status == 0:
            said = "incomplete" in errors
            assert said or output == whole, f"cut at {offset:#x}: something is missing, and nobody says so"
            continue
        assert BROKEN.search(output + errors), f"cut at {offset:#x}: {output[-500:]}{errors}"
        if not output:
            assert errors.count("\n") == 1 and errors.startswith("kcrash: "), errors
    assert outcomes == {0, 1}
    os.truncate(copy, 0)
    assert refused(dumps.vmlinux, copy) == f"{copy}: is empty"


# -- files that do not belong here


def test_the_order_of_the_files_does_not_matter(dumps: lab.Dumps) -> None:
    one = kcrash(dumps.vmlinux, dumps.forms["elf"], commands=["sys", "ps"])
    assert one == kcrash(dumps.forms["elf"], dumps.vmlinux, commands=["sys", "ps"])
    assert one[0] == 0 and "RELEASE: 6.1" in one[1]


def build_id(path: Path) -> str:
    """As readelf says it."""
    text = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Build ID: (\w+)", text)
    assert found
    return found[1]


def test_a_vmlinux_of_another_build(dumps: lab.Dumps) -> None:
    other = dumps_of("6.12").vmlinux
    said = refused(other, dumps.forms["elf"])
    assert build_id(other) in said and build_id(dumps.vmlinux) in said
    assert str(other) in said and str(dumps.forms["elf"]) in said


def test_two_dumps_of_different_machines(dumps: lab.Dumps) -> None:
    other = dumps_of("6.12").forms["zlib-d31"]
    said = refused(dumps.vmlinux, dumps.forms["elf"], other)
    assert str(dumps.forms["elf"]) in said and str(other) in said


def test_no_permission(dumps: lab.Dumps, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    shutil.copy(dumps.forms["zlib-d31"], path)
    path.chmod(0)
    # Root may read everything: take that right away.
    by = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    assert refused(dumps.vmlinux, path, by=by) == f"{path}: Permission denied"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "{}: is empty"),
        (lambda path: path.write_text("hello\n"), "{}: not a dump but a text file"),
        (lambda path: path.symlink_to("nowhere"), "{}: No such file or directory"),
        (lambda path: path.symlink_to("/dev/zero"), "{}: is neither a file nor a block device"),
    ],
    ids=["empty", "text", "missing", "device"],
)  # fmt: skip
def test_what_is_no_dump(make: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    assert callable(make)
    make(path)
    assert refused(path) == said.format(path)


def test_a_folder_without_a_kernel(dumps: lab.Dumps, tmp_path: Path) -> None:
    said = refused(dumps.forms["elf"], tmp_path)
    assert said.startswith("no vmlinux of kernel 6.1") and build_id(dumps.vmlinux) in said
