"""The kernel of this machine as the oracle: its own core of a small program, form by form beside ours."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.extensions.gcore.conftest import Case
from tests.extensions.gcore.corefile import CoreFile

PROGRAM = """
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static void *park(void *a) { pause(); return a; }
int main(void)
{
    pthread_t t;
    volatile char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p[0] = 7;
    pthread_create(&t, 0, park, 0);
    usleep(200000);
    abort();
}
"""


def _unlimited() -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> CoreFile:
    folder = tmp_path_factory.mktemp("oracle")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if (
        shutil.which("gcc") is None
        or "/" in pattern
        or pattern.startswith("|")
        or os.uname().machine != "x86_64"
    ):
        pytest.skip("PEER MISSING: this machine's kernel writes no core beside the program")
    (folder / "t.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-O", "-o", "t", "t.c", "-lpthread"], cwd=folder, check=True)
    subprocess.run(["./t"], cwd=folder, preexec_fn=_unlimited(), check=False)
    cores = list(folder.glob("core*"))
    if not cores:
        pytest.skip("PEER MISSING: this machine's kernel wrote no core")
    return CoreFile(cores[0])


def _kinds(core: CoreFile) -> list[str]:
    return [kind for kind, _ in core.notes if kind not in ("XSAVE_LAYOUT", "KCRASH") and ":" not in kind]


def test_header(oracle: CoreFile, one: Case) -> None:
    ours = one.worker
    assert ours.ident == oracle.ident
    assert (ours.type, ours.machine) == (oracle.type, oracle.machine)
    for core in (oracle, ours):
        note, *loads = core.segments
        assert (note.kind, note.flags, note.address, note.memory_size) == (4, 0, 0, 0)
        assert note.offset == 64 + 56 * len(core.segments)
        first = note.offset + note.file_size + 4095 & ~4095
        assert loads[0].offset == first
        for before, after in itertools.pairwise(loads):
            assert after.offset == before.offset + before.file_size
        assert {load.align for load in loads} == {4096}


def test_notes_and_their_sizes(oracle: CoreFile, one: Case) -> None:
    theirs, ours = _kinds(oracle), _kinds(one.worker)
    assert theirs[:7] == ours[:7]
    assert theirs[7:] == ours[7:10]
    for kind in ("PRSTATUS", "PRPSINFO", "SIGINFO", "FPREGSET"):
        assert len(oracle.note(kind)) == len(one.worker.note(kind)), kind


def test_xstate_headers(oracle: CoreFile, one: Case) -> None:
    for core in (oracle, one.worker):
        state = core.note("XSTATE")
        assert state[:416] == core.note("FPREGSET")[:416]
        assert state[416:464] == bytes(48)
        enabled = struct.unpack_from("<Q", state, 464)[0]
        xfeatures, xcomp_bv = struct.unpack_from("<QQ", state, 512)
        assert not xfeatures & ~enabled
        assert xcomp_bv == 0
        assert state[528:576] == bytes(48)


def test_segments_follow_the_same_rules(oracle: CoreFile, one: Case) -> None:
    """What is never written to has no bytes; a library's first page has; .data has all."""
    for core in (oracle, one.worker):
        libc = [row for row in core.files() if "libc.so" in row[3]]
        sizes = [core.segment_at(row[0]).file_size for row in libc]
        flags = [core.segment_at(row[0]).flags for row in libc]
        assert (sizes[0], flags[0]) == (4096, 4)
        assert sizes[flags.index(5)] == 0
        assert sizes[flags.index(6)] == libc[flags.index(6)][1] - libc[flags.index(6)][0]
        empty = [s for s in core.loads if not s.file_size and s.flags == 6]
        assert any(s.memory_size == 8192 or s.memory_size == 16384 for s in empty)


def test_files(oracle: CoreFile, one: Case) -> None:
    """One entry a mapping, in order of address, none merged."""
    for core in (oracle, one.worker):
        rows = core.files()
        assert rows == sorted(rows)
        assert any(a[1] == b[0] and a[3] == b[3] for a, b in itertools.pairwise(rows))
        assert all(core.segment_at(start).memory_size == end - start for start, end, _, _ in rows)
