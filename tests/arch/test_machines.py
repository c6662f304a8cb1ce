"""Dumps of other machines against what their guests said of themselves, drgn, gdb and each other."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from kcrash.linux.page import page_to_pfn, read_page
from kcrash.linux.stack import frames, read_regs, user_regs_address
from kcrash.linux.tasks import Task, task_table
from kcrash.linux.userpages import UserMemory
from kcrash.session import Session
from kcrash.unwind import Frame
from tests.arch.conftest import Lab
from tests.arch.forms import BLOCKS, CORES
from tests.extensions.gcore.corefile import CoreFile
from tests.lab.toolbox import toolbox
from tests.lab.truth import Entry, Thread

NO_CALL = 0xFFFFFFFF
# What architectures call a register that the workload's output names otherwise.
NAMES = {"pc": ("pc", "pswa", "nip"), "lr": ("link", "lr"), "cr": ("ccr",)}
RESUME = 1 << 16  # EFLAGS: of an instruction that caused a fault (Intel SDM volume 3B, 18.3.1.1)
NOT_DRGNS = ("loongarch64",)
KERNEL_GUESSES = ("loongarch64",)  # Debian's kernel shows whatever looks like a return address
FORMS = ("qemu-elf", "qemu-zlib", "qemu-zlib-raw", "elf")
PASSING = ("kworker", "sleep", "ext4lazyinit")  # tasks that may have begun or ended since the guest looked
# "core file is missing NT_AUXV": it knows no 32-bit dumps; "only supported for Radix MMU".
DRGN_OPENS_NOT = ("arm", "i386", "ppc64el-hash")
# Where _switch() would have saved a return address had it called: powerpc's traces begin with what was there.
KERNEL_BEGINS_STALE = ("ppc64le",)


def _parked(machine: Lab) -> list[Thread]:
    return [thread for thread in machine.truth.threads if thread.entry is not Entry.LIBC]


def _on_cpu(session: Session, task: Task) -> bool:
    return task.address in task_table(session).active


# -- tasks, in every form


def test_tasks_are_those_of_the_guests_proc(machine: Lab) -> None:
    expected = {(task.tid, task.tgid, task.comm[:15]) for task in machine.truth.tasks}
    for form in FORMS:
        if form in machine.dumps.forms:
            session = machine.open(form)
            found = {(t.pid, t.tgid, t.name) for t in task_table(session).tasks if t.pid}
            lasting = {item for item in found ^ expected if not item[2].startswith(PASSING)}
            assert not lasting, form
            session.close()


def test_log_is_the_guests(machine: Lab) -> None:
    told = [line for line in machine.truth.facts["dmesg"].splitlines() if line.startswith("[")]
    shown = machine.run("log").splitlines()
    assert len(told) > 100
    # The second line of one message: dmesg gives it the time too, crash indents it.
    indented = {line.strip() for line in shown if not line.startswith("[")}
    assert [
        line for line in told if line not in shown and line.split("] ", 1)[1].strip() not in indented
    ] == []


# -- registers


def test_registers_of_every_parked_thread(machine: Lab) -> None:
    checked = 0
    for thread in _parked(machine):
        task = machine.task(thread.tid)
        if _on_cpu(machine.session, task):
            continue
        found = read_regs(machine.session, user_regs_address(machine.session, task))
        _check_registers(thread, found)
        checked += len(thread.registers)
    assert checked > 250


def _check_registers(thread: Thread, found: dict[str, int]) -> None:
    for name, value in thread.registers.items():
        if name == "nzcv":
            assert found.get("pstate", found.get("cpsr", 0)) & 0xF0000000 == value, thread.name
        elif name == "eflags":
            assert found[name] & ~RESUME == value, thread.name
        elif name == "cc":  # of s390x: in the PSW elsewhere than SPM takes it from
            assert found["pswm"] >> 44 & 3 == value >> 28, thread.name
        elif name == "cr1to7":  # of ppc64: a system call changes the first field
            assert found["ccr"] & 0xFFFFFFF == value, thread.name
        elif name in NAMES:
            assert value in (found[other] for other in NAMES[name] if other in found), (thread.name, name)
        elif name == "syscallno" and thread.entry is Entry.SYSCALL_DONE:
            assert found.get(name, NO_CALL) == NO_CALL, thread.name  # do_signal() forgets the call
        elif name not in ("orig_x0", "orig_a0", "syscallno") or name in found:
            assert found[name] == value, (thread.name, name)


# -- memory


def test_memory_of_every_kind(machine: Lab) -> None:
    if machine.session.arch.word_bytes == 4:  # Debian's 32-bit kernels have no BTF of zram
        machine.run(f"mod -S {machine.dumps.debug_modules}")
    for area in machine.truth.areas:
        memory = UserMemory(machine.session, machine.task(area.pid).mm, "user")
        for start in (0, area.size // 2 - 100, area.size - 200):
            assert memory.read(area.start + start, 200) == area.content[start : start + 200], area.kind


def test_frames_are_those_of_pagemap(machine: Lab) -> None:
    size, checked = machine.truth.page_size, 0
    assert machine.session.arch.page_size == size
    for area in machine.truth.areas:
        memory = UserMemory(machine.session, machine.task(area.pid).mm, "user")
        for index in range(0, area.size // size, area.page_step):
            if area.page_of(index) > 0:
                physical = memory.tables.translate(area.start + index * size)
                assert physical == area.page_of(index) * size, area.kind
                checked += 1
    assert checked > 100


def test_vtop_takes_a_programs_address_for_one(machine: Lab) -> None:
    """Without -u, also where kernel and programs have the same addresses (s390x)."""
    area = machine.truth.area("anon")
    page = next(index for index in range(0, 64, area.page_step) if area.page_of(index) > 0)
    address = area.start + page * machine.truth.page_size
    physical = area.page_of(page) * machine.truth.page_size
    assert machine.run(f"vtop -c {area.pid} {address:x}").splitlines()[1].split() == [
        f"{address:x}",
        f"{physical:x}",
    ]


def test_struct_pages_tell_where_anonymous_pages_are_mapped(machine: Lab) -> None:
    """Of an anonymous page, index is the number of its virtual page (linear_page_index())."""
    area, size = machine.truth.area("anon"), machine.truth.page_size
    frames_of = {index: area.page_of(index) for index in range(0, area.size // size, area.page_step)}
    present = {index: pfn for index, pfn in frames_of.items() if pfn > 0}
    assert present
    for index, pfn in present.items():
        page = read_page(machine.session, pfn)
        assert page.index == area.start // size + index and page.count > 0
        assert page_to_pfn(machine.session, page.address) == pfn


# -- stacks


def test_frames_are_drgns(machine: Lab) -> None:
    if machine.vmlinux is None:
        pytest.skip("drgn needs a vmlinux, and this kernel's was not fetched")
    if {machine.name, machine.session.arch.name} & {*DRGN_OPENS_NOT}:
        pytest.skip(f"drgn opens no dumps of {machine.name}")
    pytest.importorskip("drgn")
    if machine.session.arch.name in NOT_DRGNS:
        pytest.skip(f"drgn does not unwind {machine.session.arch.name}")
    from tests.unwind.drgn_sessions import compare

    for form in ("qemu-elf", "elf"):
        if form in machine.dumps.forms:
            report = compare(machine.vmlinux, machine.for_drgn(form))
            assert report.tasks > 50 and report.frames > 300
            # Of a zombie's stack, which is not its any more, drgn reads on into address 0.
            assert [line for line in report.differences if "0x0 is not in kernel code" not in line] == []


def test_every_trace_ends_where_the_kernel_was_entered(machine: Lab) -> None:
    """By frame records alone, for a task that sleeps; the border's registers are the guest's own."""
    session = machine.alone
    for thread in _parked(machine):
        task = task_table(session).by_pid[thread.tid][0]
        if not _on_cpu(session, task):
            found = frames(session, task)
            assert not found[-1].note, thread.name
            assert found[-1].pc == thread.registers["pc"], thread.name


def test_frame_records_give_the_frames_of_the_tables(machine: Lab) -> None:
    if machine.vmlinux is None:
        pytest.skip("without a vmlinux there are only frame records")
    checked = 0
    for task in task_table(machine.session).tasks:
        if task.stack and not _on_cpu(machine.session, task):
            other = task_table(machine.alone).by_address[task.address]
            assert _places(frames(machine.session, task)) == _places(frames(machine.alone, other)), task.name
            checked += 1
    assert checked > 50


def _places(found: list[Frame]) -> list[int | None]:
    return [frame.pc for frame in found]


def test_traces_are_those_of_the_guests_kernel(machine: Lab) -> None:
    """/proc/PID/task/TID/stack, which begins behind the scheduler's own frames."""
    session, checked, told = machine.session, 0, 0
    for name, text in machine.truth.facts.items():
        found = re.fullmatch(r"/proc/\d+/task/(\d+)/stack", name)
        task, theirs = machine.task(int(found[1])) if found else None, _places_of(session, text)
        told += bool(theirs)
        if session.arch.name in KERNEL_BEGINS_STALE:
            theirs = theirs[1:]
        if task is not None and theirs and task.state:
            ours = [frame.pc for frame in frames(session, task) if frame.regs_address is None]
            if session.arch.name in KERNEL_GUESSES:
                theirs, ours = ours[_first_of(ours, theirs) : -1], [*theirs]
            assert theirs and _in_order(theirs, ours), task.name
            checked += 1
    if not told:
        pytest.skip("this kernel does not tell of other tasks' stacks")
    assert checked > 15


def _first_of(places: Sequence[int | None], wanted: Sequence[int | None]) -> int:
    return next((index for index, place in enumerate(places) if place in wanted), len(places))


def _places_of(session: Session, text: str) -> list[int | None]:
    """The addresses that the kernel printed by name and offset."""
    places: list[int | None] = []
    for name, offset in re.findall(r"^\[<0>\] (\S+?)\+0x([0-9a-f]+)/\S+$", text, re.MULTILINE):
        symbol = session.symbols.symbol(name)
        assert symbol is not None, name
        places.append(symbol.address + int(offset, 16))
    return places


def _in_order(part: Sequence[int | None], whole: Sequence[int | None]) -> bool:
    """Whether all of ``part`` are in ``whole``, in that order."""
    rest = iter(whole)
    return all(place in rest for place in part)


def test_bt_shows_the_register_block(machine: Lab) -> None:
    thread = machine.truth.thread("futex")
    BLOCKS[machine.session.arch.name](thread, machine.run(f"bt {thread.tid}"))


# -- cores


def _core(machine: Lab, pid: int) -> Path:
    if machine.session.arch.name not in CORES:
        pytest.skip(f"no register sets for {machine.session.arch.name} yet")
    path = machine.folder / f"{pid}.core"
    if not path.exists():
        machine.run(f"gcore -o {path} {pid}")
    return path


def test_core_has_every_threads_registers(machine: Lab) -> None:
    worker = machine.truth.worker
    core, form, checked = CoreFile(_core(machine, worker)), CORES[machine.session.arch.name], 0
    for thread in machine.truth.threads:
        if thread.pid == worker and thread.entry is not Entry.LIBC:
            general = form.general(core.thread(thread.tid).status)
            _check_registers(thread, general)
            assert general.get(form.tls, thread.tls_base) == thread.tls_base
            form.check(thread, core.thread(thread.tid).notes)
            checked += 1
    assert checked >= 14


def test_gdb_walks_every_threads_stack(machine: Lab) -> None:
    worker = machine.truth.worker
    core, box = _core(machine, worker), toolbox(machine.dumps.kernel.arch)
    words: list[str | Path] = ["gdb-multiarch", "-nx", "-batch"]
    for setting in (f"set sysroot {machine.dumps.sysroot}", "set debuginfod enabled off", "set width 0"):
        words += ["-iex", setting]
    words += [machine.dumps.workload, core, "-ex", "thread apply all bt"]
    done = box.run(words, binds=[machine.dumps.folder, machine.folder])
    stacks = _stacks(done.stdout)
    for thread in machine.truth.threads:
        if thread.pid == worker:
            names = stacks[thread.tid]
            at = names.index(thread.frames[0])
            assert tuple(names[at : at + len(thread.frames)]) == thread.frames, thread.name


def _stacks(text: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for part in re.split(r"^Thread \d+ ", text, flags=re.MULTILINE)[1:]:
        lwp = re.search(r"LWP (\d+)", part)
        assert lwp is not None
        names = re.findall(
            r"^#\d+ +(?:0x[0-9a-f]+ (?:\[PAC\] )?in )?(<signal handler called>|[^ (]+)", part, re.MULTILINE
        )
        found[int(lwp[1])] = ["<signal>" if name.startswith("<signal") else name for name in names]
    return found


def test_core_of_a_32_bit_program(machine: Lab) -> None:
    thread = next((t for t in machine.truth.threads if t.entry is Entry.COMPAT), None)
    if thread is None:
        pytest.skip("this kernel runs no 32-bit programs")
    data = _core(machine, thread.pid).read_bytes()
    assert data[4] == 1 and struct.unpack_from("<H", data, 18)[0] == 40  # ELFCLASS32, EM_ARM
    (start,) = struct.unpack_from("<I", data, 52 + 4)  # the notes' offset
    words = struct.unpack_from("<18I", data, start + 20 + 72)
    assert words[:15] == tuple(thread.registers[f"x{n}"] for n in range(15))
    assert words[15] == thread.registers["pc"] and words[17] == thread.registers["orig_x0"]
