"""The truth is complete, agrees with what the guest's kernel said of itself, and is what the dumps hold."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cache, lab
from tests.lab.architectures import CAPTURED
from tests.lab.boots import MIB, QEMU_DUMPS, Report, reports
from tests.lab.cache import digest, keep
from tests.lab.initrd import Archive
from tests.lab.kernels import SUITES
from tests.lab.lab import Dumps
from tests.lab.toolbox import Toolbox
from tests.lab.truth import PAGE, Area, Entry, Thread, mix64, parse

DEFAULT = ("6.1", "6.12")
STATES = {
    *(
        "futex",
        "pipe",
        "poll",
        "epoll",
        "nanosleep",
        "pause",
        "sigsuspend",
        "select",
        "accept",
        "recv",
        "msgrcv",
    ),
    *("signal", "stopped", "traced", "vfork", "fault", "libc-cond", "spin", "preempted", "compat"),
}
KINDS = {
    *(
        "anon",
        "thp",
        "stack",
        "brk",
        "file-untouched",
        "file-cowed",
        "file-shared",
        "memfd-shared",
        "anon-shared",
    ),
    *(
        "sysv-shared",
        "read-only",
        "prot-none",
        "dontdump",
        "mlocked",
        "zero-page",
        "never-touched",
        "swap-mix",
    ),
    *("swap-ramp", "swap-same", "swap-shmem", "hugetlb-private", "hugetlb-shared", "fork-cow"),
}
GENERAL = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "orig_rax", "cs", "ss"}
NEW = {f"r{n}" for n in range(8, 16)}
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


@pytest.fixture(scope="module", params=tuple(SUITES))
def dumps(request: pytest.FixtureRequest) -> Dumps:
    """A kernel's dumps; made only when asked for ($KCRASH_LAB=1): it takes minutes and a network."""
    version = str(request.param)
    wanted = os.environ.get("KCRASH_LAB") and version in DEFAULT
    if not (wanted or lab.cached(version)):
        pytest.skip("no dumps: run python -m tests.lab, or set KCRASH_LAB=1")
    return lab.dumps(version)


def _crash(dumps: Dumps, form: str, *commands: str) -> str:
    out = lab.toolbox().crash(dumps.vmlinux, dumps.forms[form], commands)
    if "invalid structure member offset" in out:
        pytest.skip(f"crash does not know kernel {dumps.kernel.version}")
    return out


def _task_fact(dumps: Dumps, thread: Thread, file: str) -> str:
    return dumps.truth.fact(f"/proc/{thread.pid}/task/{thread.tid}/{file}")


def _status(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_everything_was_said(dumps: Dumps) -> None:
    truth = dumps.truth
    assert truth.complete
    assert not truth.failures
    assert {thread.state for thread in truth.threads} == STATES
    assert {area.kind for area in truth.areas} == KINDS
    assert len(truth.threads) == truth.head["threads"]
    assert len(truth.areas) == truth.head["areas"]


def test_registers_are_complete(dumps: Dumps) -> None:
    for thread in dumps.truth.threads:
        if thread.entry is Entry.COMPAT:
            assert set(thread.registers) >= GENERAL
        elif thread.entry is not Entry.LIBC:
            assert set(thread.registers) == GENERAL | NEW


def test_kernel_saw_the_states(dumps: Dumps) -> None:
    for thread in dumps.truth.threads:
        status = _status(_task_fact(dumps, thread, "status"))
        assert status["Name"] == thread.name
        assert status["Tgid"] == str(thread.pid)
        assert status["State"][0] in thread.expect, thread


def _syscall_words(dumps: Dumps, thread: Thread) -> list[int]:
    text = _task_fact(dumps, thread, "syscall")
    return [] if text == "running" else [int(word, 0) for word in text.split()]


def test_kernel_saw_the_call_and_where_it_was(dumps: Dumps) -> None:
    """/proc/TID/syscall is the kernel's own reading of a blocked thread's number, arguments, sp and pc."""
    seen = 0
    for thread in dumps.truth.threads:
        words = _syscall_words(dumps, thread)
        if thread.entry is not Entry.SYSCALL or not words:
            continue
        regs, seen = thread.registers, seen + 1
        assert words == [regs[name] for name in ("orig_rax", *ARGUMENTS, "rsp", "rip")], thread
    assert seen >= 14


def test_kernel_saw_the_fault_outside_any_call(dumps: Dumps) -> None:
    thread = dumps.truth.thread("fault")
    number, sp, pc = _task_fact(dumps, thread, "syscall").split()
    assert int(number) == -1
    assert (int(sp, 0), int(pc, 0)) == (thread.registers["rsp"], thread.registers["rip"])


def test_compat_process_is_where_the_source_says(dumps: Dumps) -> None:
    thread = dumps.truth.thread("compat")
    words = _syscall_words(dumps, thread)
    order = ("orig_rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip")
    assert words == [thread.registers[name] for name in order]


def test_distinctive_registers_are_distinct(dumps: Dumps) -> None:
    seen = [
        t.registers[name]
        for t in dumps.truth.threads
        if "r12" in t.registers
        for name in ("rbx", "rbp", "r12")
    ]
    assert len(set(seen)) == len(seen) >= 60


def _maps(dumps: Dumps, pid: int) -> list[tuple[range, str, str]]:
    rows = []
    for line in dumps.truth.fact(f"/proc/{pid}/maps").splitlines():
        ends, flags, _, _, _, *name = line.split(None, 5)
        start, end = (int(word, 16) for word in ends.split("-"))
        rows.append((range(start, end), flags, name[0] if name else ""))
    return rows


def _row(dumps: Dumps, area: Area) -> tuple[range, str, str]:
    (row,) = [row for row in _maps(dumps, area.pid) if area.start in row[0]]
    return row


FLAGS = {
    "read-only": "r--p",
    "prot-none": "---p",
    "file-shared": "rw-s",
    "anon-shared": "rw-s",
    "anon": "rw-p",
}


def test_areas_are_in_the_maps(dumps: Dumps) -> None:
    for area in dumps.truth.areas:
        span, flags, name = _row(dumps, area)
        assert area.end <= span.stop, area.kind
        assert flags == FLAGS.get(area.kind, flags)
        assert area.file in name


def test_stack_pointers_are_in_stacks(dumps: Dumps) -> None:
    for thread in dumps.truth.threads:
        if "rsp" not in thread.registers:
            continue
        spans = (
            [span for span, flags, _ in _maps(dumps, thread.pid) if "w" in flags]
            if _listed(dumps, thread)
            else []
        )
        assert not spans or any(thread.registers["rsp"] in span for span in spans), thread


def _listed(dumps: Dumps, thread: Thread) -> bool:
    """A dead leader's maps are empty."""
    return bool(dumps.truth.fact(f"/proc/{thread.pid}/maps"))


def test_handler_runs_on_the_alternate_stack(dumps: Dumps) -> None:
    thread = dumps.truth.thread("signal")
    assert thread.altstack is not None
    assert thread.registers["rsp"] in thread.altstack
    assert thread.interrupted["rsp"] not in thread.altstack


def test_huge_and_swapped_are_so(dumps: Dumps) -> None:
    truth = dumps.truth
    for kind in ("thp", "hugetlb-private", "hugetlb-shared"):
        pages = truth.area(kind).pages
        assert pages[0] % 512 == 0
        assert pages == tuple(range(pages[0], pages[0] + 512, 64))
    for kind in ("swap-mix", "swap-ramp", "swap-same"):
        assert set(truth.area(kind).pages) == {-1}
    assert set(truth.area("never-touched").pages) == {0}
    assert len(set(truth.area("zero-page").pages)) == 1


def test_fork_shares_what_nobody_wrote(dumps: Dumps) -> None:
    truth = dumps.truth
    ours, theirs = truth.area("fork-cow"), truth.area("fork-cow", truth.process("lab-forked").pid)
    assert ours.pages[:4] == theirs.pages[:4]
    assert not set(ours.pages[4:]) & set(theirs.pages[4:])


def test_coredump_filters(dumps: Dumps) -> None:
    truth = dumps.truth
    assert truth.process("lab-worker").coredump_filter == 0x33
    assert truth.process("lab-forked").coredump_filter == 0x61


def test_tasks_list_holds_the_threads(dumps: Dumps) -> None:
    listed = {(task.tid, task.tgid): task for task in dumps.truth.tasks}
    for thread in dumps.truth.threads:
        assert listed[thread.tid, thread.pid].comm == thread.name
    leader = dumps.truth.process("lab-deadlead")
    assert listed[leader.pid, leader.pid].state == "Z"


class RawElf:
    """Physical memory of an ELF core file, read without the code under test."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        head = self._file.read(64)
        offset, count = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<H", head, 56)[0]
        self._file.seek(offset)
        self._loads = list(self._segments(self._file.read(56 * count)))

    @staticmethod
    def _segments(table: bytes) -> Iterator[tuple[int, int, int]]:
        for kind, _, offset, _, physical, size, _, _ in struct.iter_unpack("<IIQQQQQQ", table):
            if kind == 1:
                yield physical, offset, size

    def page(self, frame: int) -> bytes:
        """A page; KeyError when the file has none."""
        for physical, offset, size in self._loads:
            if physical <= frame * PAGE < physical + size:
                self._file.seek(offset + frame * PAGE - physical)
                return self._file.read(PAGE)
        raise KeyError(frame)


def _present(dumps: Dumps) -> Iterator[tuple[Area, int, int]]:
    for area in dumps.truth.areas:
        for number, frame in enumerate(area.pages):
            if frame > 0:
                yield area, number * area.page_step, frame


@pytest.mark.parametrize("form", ["elf", "qemu-elf"])
def test_dump_holds_the_memory(dumps: Dumps, form: str) -> None:
    """Every page the guest said to be present is in the dump's frame of that number, byte for byte."""
    raw, seen = RawElf(dumps.forms[form]), 0
    for area, page, frame in _present(dumps):
        wanted = area.content[page * PAGE : (page + 1) * PAGE]
        assert raw.page(frame) == wanted, (area.kind, page)
        seen += 1
    assert seen > 100


def test_interrupted_context_is_on_the_alternate_stack(dumps: Dumps) -> None:
    """crash finds the interrupted registers in the signal frame, in sigcontext's order."""
    thread = dumps.truth.thread("signal")
    out = _crash(dumps, "elf", f"set {thread.tid}", _read(thread))
    words = [
        int(word, 16) for line in out.splitlines() if ": " in line for word in line.split()[1:3] if _hex(word)
    ]
    order = ("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags")
    wanted = [thread.interrupted[name] for name in order]
    assert any(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def _read(thread: Thread) -> str:
    assert thread.altstack is not None
    start = thread.registers["rsp"]
    return f"rd -u -64 {start:x} {(thread.altstack.stop - start) // 8}"


def _hex(word: str) -> bool:
    return len(word) == 16 and all(c in "0123456789abcdef" for c in word)


def test_crash_opens_every_form(dumps: Dumps) -> None:
    """All of them when $KCRASH_LAB is set, else two: crash takes some ten seconds a dump."""
    for name in dumps.forms if os.environ.get("KCRASH_LAB") else ("qemu-zlib", "zlib-d31"):
        out = _crash(dumps, name, "ps | grep lab-futex", "bt | head -4")
        assert out.count("lab-futex") == len(dumps.truth.threads_in("futex")), name
        if dumps.moment(name) == "panic":
            assert f"PID: {dumps.truth.panic_pid} " in out, name


def test_registers_of_qemu_are_those_of_the_spinner(dumps: Dumps) -> None:
    """At READY cpu 1 runs one of the spinners: QEMU shows its registers, so the truth is the machine's."""
    section = dumps.registers.split("CPU#1")[1]
    shown = {
        int(word.split("=")[1], 16) for word in section.replace("\n", " ").split() if word.startswith("R12=")
    }
    spinners = {t.registers["r12"] for t in dumps.truth.threads if t.state in ("spin", "preempted")}
    if "CPL=3" not in section:
        pytest.skip("cpu 1 was in the kernel at that moment")
    assert shown <= spinners


def test_forms_are_there(dumps: Dumps) -> None:
    assert set(QEMU_DUMPS) | {"elf", "zlib-d1", "zstd-d31", "flat-zlib-d31"} <= set(dumps.forms)


def test_capture_kernel_wrote_the_forms(dumps: Dumps) -> None:
    """After READY the console names the size and the checksum that each file has."""
    saved = reports(dumps.console.split("\nREADY\n")[1])
    assert set(saved) == {"elf", *CAPTURED}
    for name, report in saved.items():
        data = dumps.forms[name].read_bytes()
        assert (len(data), hashlib.md5(data).hexdigest()) == (report.size, report.md5), name


def test_host_writes_the_same(dumps: Dumps, tmp_path: Path) -> None:
    """makedumpfile on this machine, from the raw dump, gives the bytes that it gave in the capture kernel."""
    target = tmp_path / "dump"
    argv: list[str | Path] = ["makedumpfile", *CAPTURED["zstd-d31"], dumps.forms["elf"], target]
    assert lab.toolbox().run(argv, binds=[tmp_path]).returncode == 0
    assert target.read_bytes() == dumps.forms["zstd-d31"].read_bytes()


def test_reports_are_whole_lines() -> None:
    md5 = "0123456789abcdef" * 2
    console = f"SAVED elf 0 7 {md5} 1.50 4.00\nSAVED x 1 9 [ 1.0] kernel\nSAVED y 3 4 {md5[1:]} 4.00 5.00\n"
    assert reports(console) == {"elf": Report("elf", 0, 7, md5, 2.5)}
    assert reports(f"SAVED x 2 7 {md5} 1.00 2.00")["x"].offset == 2 * MIB


def test_drgn_script_runs() -> None:
    """Its scripts name the Python that is beside them."""
    if not (cache.root() / lab.drgn_name()).exists() and not os.environ.get("KCRASH_LAB"):
        pytest.skip("no drgn: set KCRASH_LAB=1")
    done = subprocess.run([lab.drgn().with_name("drgn-crash"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mix64_is_splitmix64() -> None:
    """The first two outputs of splitmix64 seeded with 0, as its author published them."""
    assert mix64(0) == 0xE220A8397B1DCDAF
    assert mix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_truth_survives_kernel_lines_between() -> None:
    console = 'noise\nTRUTH {"complete":true}\n[ 1.0] kernel\nBEGIN /proc/x\na\nb\nEND /proc/x\nPANIC-BY 7\n'
    truth = parse(console)
    assert truth.complete
    assert truth.panic_pid == 7
    assert truth.fact("/proc/x") == "a\nb"


def test_archive_is_newc() -> None:
    archive = Archive()
    archive.add("a/b", b"xyz")
    data = gzip.decompress(archive.packed())
    assert data.startswith(b"070701")
    assert data.index(b"a\0") < data.index(b"a/b\0") < data.index(b"xyz") < data.index(b"TRAILER!!!")


def test_keep_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCRASH_LAB_CACHE", str(tmp_path))

    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        keep("thing", fail)

    def make(part: Path) -> None:
        part.write_text("whole")

    assert keep("thing", make).read_text() == "whole"
    assert not list(tmp_path.glob(".part*"))


def test_digest_sees_contents(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    first = digest(tmp_path)
    file.write_text("two")
    assert digest(tmp_path) != first


def test_toolbox_leaves_bound_files_alone(dumps: Dumps, tmp_path: Path) -> None:
    """A file inside a folder that is bound too must not be emptied by making its mount point."""
    file = tmp_path / "file"
    file.write_text("content")
    box: Toolbox = lab.toolbox()
    assert box.run(["cat", file], binds=[tmp_path]).stdout == "content"
    assert file.read_text() == "content"
