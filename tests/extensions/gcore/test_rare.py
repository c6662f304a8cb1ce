"""Cores of threads in rare states and of memory of rare kinds, against what they said of themselves."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from kcrash.session import Session
from tests.arch.forms import CORES
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile
from tests.extensions.gcore.peak import PEAK
from tests.extensions.gcore.test_lab import RESUME_FLAG, _check_legacy, _check_ymm
from tests.lab import rare
from tests.lab.rare import FORMS, Rare
from tests.lab.truth import Entry, Thread, mix64

INTEL = "max,vendor=GenuineIntel"  # 32-bit programs enter by sysenter there, by syscall else
MACHINES = [
    *((version, "") for version in os.environ.get("KCRASH_LAB_KERNELS", "5.10,6.1,6.12,7.2").split(",")),
    ("6.1", INTEL),
    ("7.2", INTEL),
]
PAGE = 4096
SYS_WRITE = 1
PKRU = 2688  # offset in a standard XSAVE area, of QEMU's CPU
ARITHMETIC = 0x8D5  # carry, parity, auxiliary, zero, sign, overflow


@dataclass
class Case:
    """A dump; cores of its processes are written to ``folder``."""

    made: Rare
    form: str
    folder: Path

    @cached_property
    def session(self) -> Session:
        return kcrash.open(str(self.made.kernel.vmlinux), str(self.made.forms[self.form]))

    def run(self, line: str) -> tuple[int, str]:
        kept = Kept()
        shell = Shell(self.session, REGISTRY, stdout=lambda: kept)
        if "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        kept.text = ""
        return shell.run(line), kept.text

    def path(self, pid: int) -> Path:
        path = self.folder / f"{pid}.core"
        if not path.exists():
            status, text = self.run(f"gcore -o {path} {pid}")
            assert status == 0, text
        return path

    def core(self, pid: int) -> CoreFile:
        return CoreFile(self.path(pid))

    @cached_property
    def registers(self) -> dict[int, Mapping[str, int]]:
        """The truth by thread id, at the moment of the dump."""
        found = {thread.tid: dict(thread.registers) for thread in self.made.truth.threads}
        if self.form != "qemu-elf":
            found[self.made.truth.thread("crash").tid]["orig_rax"] = SYS_WRITE
        return {tid: registers for tid, registers in found.items() if registers}

    def threads(self) -> list[Thread]:
        """All but the 32-bit one."""
        return [t for t in self.made.truth.threads if t.tid in self.registers and t.entry != Entry.COMPAT]


def _name(machine: tuple[str, str]) -> str:
    return machine[0] + ("-intel" if machine[1] else "")


def _opened(machine: tuple[str, str], form: str, folder: Path) -> Iterator[Case]:
    version, cpu = machine
    rare.require(version, cpu=cpu)
    made = Case(rare.rare(version, cpu=cpu), form, folder)
    yield made
    if "session" in made.__dict__:
        made.session.close()


@pytest.fixture(
    scope="module", params=[(m, f) for m in MACHINES for f in FORMS], ids=lambda p: f"{_name(p[0])}-{p[1]}"
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Each machine and form."""
    machine, form = request.param
    yield from _opened(machine, form, tmp_path_factory.mktemp("rare"))


@pytest.fixture(params=MACHINES, ids=_name)
def compressed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Each machine in one form, for what does not depend on it."""
    yield from _opened(request.param, "zlib-d1", tmp_path)


def test_everything_was_said(case: Case) -> None:
    truth = case.made.truth
    assert truth.complete
    assert not truth.failures
    assert {thread.state for thread in truth.threads} == {
        *(
            "sleep",
            "filtered",
            "notifying",
            "new",
            "hog",
            "busy",
            "entering",
            "leaving",
            "half",
            "crash",
            "fast",
            "ports",
        )
    }


def test_general_registers(case: Case) -> None:
    for thread in case.threads():
        found = case.core(thread.pid).thread(thread.tid).registers
        if thread.entry == Entry.EXCEPTION:
            found["eflags"] &= ~RESUME_FLAG
        true = case.registers[thread.tid]
        wrong = {n: (hex(found[n]), hex(value)) for n, value in true.items() if found[n] != value}
        assert not wrong, f"{thread.state}: (found, true) {wrong}"
        bases = found["fs_base"], found["gs_base"]
        assert bases == (thread.tls_base, thread.gs_base), thread.state


def test_vectors(case: Case) -> None:
    """Of the threads that no CPU runs; those of a thread that has not run yet are its parent's."""
    checked = set()
    for thread in case.threads():
        core = case.core(thread.pid)
        notes = core.thread(thread.tid).notes
        if "XSTATE" not in notes:
            assert thread.state in ("hog", "busy", "crash")
            (told,) = [row for row in core.report["threads"] if row["pid"] == thread.tid]
            assert re.fullmatch(r"still in the registers of CPU \d", told["unavailable"]["XSTATE"])
            continue
        _check_legacy(thread, notes["FPREGSET"])
        _check_legacy(thread, notes["XSTATE"])
        _check_ymm(thread, notes["XSTATE"])
        checked.add(thread.state)
    assert checked >= {"sleep", "filtered", "notifying", "new", "entering", "leaving"}


def test_ports_and_protection_keys(case: Case) -> None:
    """The bitmap has a bit for each closed port; a key has two bits, of which the kernel sets the first."""
    thread = case.made.truth.thread("ports")
    core = case.core(thread.pid)
    notes = core.thread(thread.tid).notes
    closed = bytearray(b"\xff" * 8192)
    closed[0x378 // 8] = 0xF8
    assert notes["IOPERM"] == bytes(closed)
    assert [t.pid for t in core.threads if "IOPERM" in t.notes] == [thread.tid]
    keys = struct.unpack_from("<I", notes["XSTATE"], PKRU)[0]
    assert keys == 0x55555554 | 3 << 2


def test_gdb_walks_their_stacks(compressed: Case) -> None:
    """From the call that each is in, or stands before, up to the function that its thread started with."""
    case, root = compressed, compressed.made.folder / "root"
    for thread in case.threads():
        if thread.pid != thread.tid:
            continue
        settings = ["-iex", f"set sysroot {root}", "-iex", "set debuginfod enabled off"]
        words = ["gdb", "-nx", "-batch", *settings, str(root / "bin" / "rare"), str(case.path(thread.pid))]
        done = subprocess.run([*words, "-ex", "bt"], capture_output=True, text=True, check=True, timeout=60)
        names = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?([^ (]+)", done.stdout, re.MULTILINE)
        assert names[0] == thread.frames[0], thread.state
        first = names.index("level3")
        assert tuple(names[first : first + 4]) == thread.frames[1:], thread.state


def test_a_dead_thread_of_a_living_process(case: Case) -> None:
    """It is a zombie since a tracer wants to hear of its end: it has neither memory nor registers."""
    thread = case.made.truth.thread("half")
    core = case.core(thread.pid)
    assert core.report["exiting"] == [thread.tid]
    assert thread.tid not in {t.pid for t in core.threads}
    assert len(core.threads) == 1


def test_who_was_on_a_cpu(case: Case) -> None:
    """At READY and at the panic three CPUs run: the hog and one of the busy ones are always among them."""
    from kcrash.linux.tasks import task_table

    table, truth = task_table(case.session), case.made.truth
    running = {task.pid for task in table.tasks if task.address in table.active}
    assert truth.thread("hog").tid in running
    assert len(running & {t.tid for t in truth.threads_in("busy")}) == 1
    assert (truth.thread("crash").tid in running) == (case.form != "qemu-elf")
    assert truth.thread("new").tid not in running


def test_by_the_fast_entry_of_32_bit_programs(case: Case) -> None:
    """Where the kernel itself saw it, the rest as the program set it."""
    truth = case.made.truth
    thread = truth.thread("fast")
    seen = truth.fact(f"/proc/{thread.pid}/task/{thread.tid}/syscall").split()
    sp, pc = (int(word, 0) for word in seen[-2:])
    assert sp == thread.registers["rsp"] - 16  # where to return to, and what the vdso saves
    core = case.core(thread.pid)
    found = CORES["i386"].general(core.threads[0].status)
    names = {
        "ebx": "rbx",
        "ecx": "rcx",
        "edx": "rdx",
        "esi": "rsi",
        "edi": "rdi",
        "ebp": "rbp",
        "orig_eax": "orig_rax",
    }
    assert {n: found[n] for n in names} == {
        n: thread.registers[true] & 0xFFFFFFFF for n, true in names.items()
    }
    assert (found["esp"], found["eip"]) == (sp, pc)
    # What sysenter's entry code computes before it saves them changes the arithmetic flags.
    assert (found["cs"], found["ss"], found["eflags"] & ~ARITHMETIC) == (0x23, 0x2B, 0x202)
    vendor = "GenuineIntel" if "GenuineIntel" in truth.fact("/proc/cpuinfo") else "AuthenticAMD"
    code = core.memory(pc - 4, 6)
    assert code[:4].endswith(b"\xcd\x80") and code[4] == 0x5D  # int $0x80, not taken; pop %ebp
    assert {"GenuineIntel": b"\x0f\x34", "AuthenticAMD": b"\x0f\x05"}[vendor] in core.memory(pc - 16, 16)


def test_memory(case: Case) -> None:
    truth = case.made.truth
    checked = set()
    for area in truth.areas:
        core = case.core(area.pid)
        if area.kind == "device":
            assert core.segment_at(area.start).file_size == 0
            continue
        found, true = core.memory(area.start, area.size), area.content
        if area.kind == "poison":
            found, true = found[:PAGE] + found[2 * PAGE :], true[:PAGE] + true[2 * PAGE :]
        assert found == true, area.kind
        checked.add(area.kind)
    assert checked >= {
        "ksm",
        "soft-clean",
        "soft-dirty",
        "soft-dirty-out",
        "soft-clean-out",
        "guard",
        "poison",
    }


def test_a_poisoned_page_is_said_to_be(case: Case) -> None:
    area = case.made.truth.area("poison", case.made.truth.process("lab-memory").pid)
    if area.attr:
        pytest.skip(f"kernel {case.made.kernel.version} poisons nothing here")
    report = case.core(area.pid).report
    assert report["missing"] == {"hardware poison": 1}
    assert report["ranges"] == [[f"{area.start + PAGE:#x}", 1, "hardware poison"]]


def test_merged_pages_are_one(case: Case) -> None:
    """So the guest's own page map says: the kind of page is what it is meant to be."""
    areas = [area for area in case.made.truth.areas if area.kind == "ksm"]
    frames = {frame for area in areas for frame in area.pages}
    assert len(frames) == 1
    assert frames.pop() > 0


def test_swapped_out_ones_are_so(case: Case) -> None:
    for area in case.made.truth.areas:
        if area.attr == "paged-out":
            assert set(area.pages) == {-1}, area.kind


def test_more_than_four_gigabytes(case: Case) -> None:
    """8 GiB of address space with 32 pages in it: offsets beyond 32 bits, little written, little held."""
    found = re.search(r"^SPARSE (\d+) 0x([0-9a-f]+)$", case.made.console, re.MULTILINE)
    assert found is not None
    pid, start = int(found[1]), int(found[2], 16)
    path = case.folder / "sparse"
    files = [str(case.made.kernel.vmlinux), str(case.made.forms[case.form])]
    words = [sys.executable, "-c", PEAK, "-s", "-x", *files, "-c", f"gcore -o {path} {pid}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 150 << 10
    core, step = CoreFile(path), 256 << 20
    assert path.stat().st_size > 8 << 30
    assert path.stat().st_blocks * 512 < 16 << 20
    for number in range(32):
        page = core.memory(start + number * step, PAGE)
        assert page == mix64(number).to_bytes(8, "little") + bytes(PAGE - 8)
    assert core.memory(start + step - PAGE, PAGE) == bytes(PAGE)
    path.unlink()
