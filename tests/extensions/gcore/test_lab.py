"""Cores of the lab's workload against what the workload said of itself."""

from __future__ import annotations

import struct

import pytest

from tests.extensions.gcore.conftest import Case
from tests.extensions.gcore.corefile import CoreFile
from tests.lab.truth import Entry, Thread

RESUME_FLAG = 0x10000  # the CPU sets it in the frame of a fault
SWAPPED = {"swap-mix", "swap-ramp", "swap-same", "swap-shmem"}


def _threads(case: Case, pid: int) -> list[Thread]:
    return [thread for thread in case.dumps.truth.threads if thread.pid == pid]


def _cores(case: Case) -> list[tuple[CoreFile, list[Thread]]]:
    truth = case.dumps.truth
    pids = {thread.pid for thread in truth.threads}
    compat = {t.pid for t in truth.threads if t.entry == Entry.COMPAT}
    return [(case.core(pid), _threads(case, pid)) for pid in sorted(pids - compat)]


def _running(case: Case) -> set[int]:
    """Pids of the threads that were on a CPU at the moment of the dump."""
    from kcrash.linux.tasks import task_table

    table = task_table(case.session)
    return {task.pid for task in table.tasks if task.address in table.active}


def test_general_registers_of_every_thread(case: Case) -> None:
    checked = 0
    for core, threads in _cores(case):
        for thread in threads:
            found = core.thread(thread.tid).registers
            if thread.entry == Entry.EXCEPTION:
                found["eflags"] &= ~RESUME_FLAG
            wrong = {
                name: (hex(found[name]), hex(value))
                for name, value in thread.registers.items()
                if found[name] != value
            }
            assert not wrong, f"{thread.name}: (found, true) {wrong}"
            checked += len(thread.registers)
    assert checked > 300


def test_segment_bases(case: Case) -> None:
    for core, threads in _cores(case):
        for thread in threads:
            found = core.thread(thread.tid).registers
            assert (found["fs_base"], found["gs_base"]) == (thread.tls_base, thread.gs_base), thread.name


def test_interrupted_thread_is_not_in_a_system_call(case: Case) -> None:
    core = case.worker
    for thread in _threads(case, case.dumps.truth.worker):
        if thread.entry == Entry.EXCEPTION:
            assert core.thread(thread.tid).registers["orig_rax"] == 2**64 - 1


def test_floating_point_and_vector_registers(case: Case) -> None:
    running, checked = _running(case), 0
    for core, threads in _cores(case):
        for thread in threads:
            notes, truth = core.thread(thread.tid).notes, thread.vector
            if thread.tid in running and "XSTATE" not in notes:
                assert core.thread(thread.tid).fpvalid == 0
                continue
            if truth is None:
                continue
            fp, xstate = notes["FPREGSET"], notes["XSTATE"]
            assert core.thread(thread.tid).fpvalid == 1
            _check_legacy(thread, fp)
            _check_legacy(thread, xstate)
            assert fp[:416] == xstate[:416]
            _check_ymm(thread, xstate)
            checked += 1
    assert checked >= 15


def _check_legacy(thread: Thread, area: bytes) -> None:
    truth = thread.vector
    assert truth is not None
    assert struct.unpack_from("<H", area)[0] == truth.control["fcw"], thread.name
    assert struct.unpack_from("<I", area, 24)[0] == truth.control["mxcsr"], thread.name
    assert _integer_of(area[32:42]) == truth.control["st0"], thread.name
    for number in range(16):
        start = 160 + 16 * number
        assert area[start : start + 16] == truth.xmm(number), (thread.name, number)


def _integer_of(extended: bytes) -> int:
    """The whole number in an 80-bit float."""
    mantissa, top = struct.unpack("<QH", extended)
    value = mantissa >> (16383 + 63 - (top & 0x7FFF)) if mantissa else 0
    return -value if top & 0x8000 else value


def _check_ymm(thread: Thread, xstate: bytes) -> None:
    truth = thread.vector
    assert truth is not None
    xfeatures, xcomp_bv = struct.unpack_from("<QQ", xstate, 512)
    assert xcomp_bv == 0
    assert xfeatures & 3 == 3
    if truth.width == 32:
        assert xfeatures & 4
        for number in range(16):
            high = xstate[576 + 16 * number : 592 + 16 * number]
            assert high == truth.ymm(number)[16:], (thread.name, number)


def test_note_order_is_the_kernels(case: Case) -> None:
    core, truth = case.worker, case.dumps.truth
    kinds = [kind for kind, _ in core.notes if kind not in ("XSAVE_LAYOUT", "KCRASH")]
    first = ["PRSTATUS", "PRPSINFO", "SIGINFO", "AUXV", "FILE", "FPREGSET", "XSTATE"]
    assert kinds[:7] == first
    rest = [kind for kind in kinds[7:] if kind == "PRSTATUS"]
    assert len(rest) == len(_threads(case, truth.worker)) - 1
    assert core.notes[-1][0] == "KCRASH"
    assert core.threads[0].pid == truth.worker


def test_xstate_size_and_software_bytes(case: Case) -> None:
    sizes = set()
    for thread in case.worker.threads:
        if "XSTATE" in thread.notes:
            data = thread.notes["XSTATE"]
            sizes.add(len(data))
            enabled = struct.unpack_from("<Q", data, 464)[0]
            assert enabled & 7 == 7
            assert struct.unpack_from("<Q", data, 512)[0] & ~enabled == 0
    assert len(sizes) == 1


def test_ids_and_times(case: Case) -> None:
    core, truth = case.worker, case.dumps.truth
    for thread in core.threads:
        fields = _stat(truth.fact(f"/proc/{truth.worker}/task/{thread.pid}/stat"))
        assert thread.ids == (thread.pid, *(int(fields[i]) for i in (1, 2, 3)))
    spin = next(t for t in truth.threads if t.state == "spin")
    used = core.thread(spin.tid).times
    told = int(_stat(truth.fact(f"/proc/{truth.worker}/task/{spin.tid}/stat"))[11]) / 100
    # /proc scales what ticks counted by what the scheduler measured (cputime_adjust()); cores have the ticks.
    assert 0.8 * told - 0.05 <= used[0] < told + 600
    assert core.threads[0].times[0] >= used[0]


def _stat(text: str) -> list[str]:
    return text.rpartition(")")[2].split()


def test_psinfo(case: Case) -> None:
    core, truth = case.worker, case.dumps.truth
    data = core.note("PRPSINFO")
    state, name, zombie, nice, flag, uid, gid = struct.unpack_from("<BcBb4xQII", data)
    assert len(data) == 136
    assert (state, name, zombie, nice, uid, gid) == (1, b"S", 0, 0, 0, 0)
    assert flag == int(_stat(truth.fact(f"/proc/{truth.worker}/stat"))[6])
    assert data[40:56].rstrip(b"\0").decode() == _threads_name(case)
    command = truth.fact_bytes(f"/proc/{truth.worker}/cmdline")
    assert data[56:].rstrip(b"\0") == command.replace(b"\0", b" ")[:79]


def _threads_name(case: Case) -> str:
    truth = case.dumps.truth
    return next(thread.name for thread in truth.threads if thread.tid == truth.worker)


def test_auxiliary_vector(case: Case) -> None:
    truth = case.dumps.truth
    assert case.worker.note("AUXV") == truth.fact_bytes(f"/proc/{truth.worker}/auxv")


def test_mapped_files_are_those_of_proc_maps(case: Case) -> None:
    truth = case.dumps.truth
    maps = []
    for line in truth.fact(f"/proc/{truth.worker}/maps").splitlines():
        where, _, offset, _, _, *name = line.split(maxsplit=5)
        if name and name[0].startswith("/"):
            start, end = (int(part, 16) for part in where.split("-"))
            maps.append((start, end, int(offset, 16) // 4096, name[0].strip()))
    assert case.worker.files() == maps


def test_segments_are_those_of_proc_maps(case: Case) -> None:
    truth = case.dumps.truth
    told = []
    for line in truth.fact(f"/proc/{truth.worker}/maps").splitlines():
        where, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in where.split("-"))
        flags = sum(bit for c, bit in zip(permissions, (4, 2, 1), strict=False) if c != "-")
        told.append((start, end, flags))
    found = [(s.address, s.address + s.memory_size, s.flags) for s in case.worker.loads]
    assert found == told
    for segment in case.worker.loads:
        assert segment.offset % 4096 == 0
        assert segment.align == 4096


def test_memory_byte_for_byte(case: Case) -> None:
    truth, checked = case.dumps.truth, set()
    for area in truth.areas:
        core = case.core(area.pid, "-f 255")
        if area.kind in ("zero-page", "never-touched"):  # never written to: the kernel leaves it out
            assert core.segment_at(area.start).file_size == 0
            continue
        assert core.memory(area.start, area.size) == area.content, area.kind
        checked.add(area.kind)
    assert checked >= SWAPPED | {
        "anon",
        "thp",
        "hugetlb-private",
        "hugetlb-shared",
        "file-untouched",
        "stack",
    }
    assert not core.report["missing"]


def test_the_process_decides_what_is_dumped(case: Case) -> None:
    truth, core = case.dumps.truth, case.worker
    absent = {"dontdump", "file-shared", "file-untouched", "hugetlb-shared", "zero-page", "never-touched"}
    for area in truth.areas:
        if area.pid != truth.worker:
            continue
        segment = core.segment_at(area.start)
        assert bool(segment.file_size) == (area.kind not in absent), area.kind
        if segment.file_size:
            assert core.memory(area.start, area.size) == area.content, area.kind


def test_a_filter_of_its_own(case: Case) -> None:
    """lab-forked asked for 0x61: private anonymous memory, both kinds of huge pages, no ELF headers."""
    truth = case.dumps.truth
    process = truth.process("lab-forked")
    assert process.coredump_filter == 0x61
    core = case.core(process.pid)
    kinds = {
        area.kind: core.segment_at(area.start).file_size for area in truth.areas if area.pid == truth.worker
    }
    assert kinds["hugetlb-shared"]
    assert kinds["anon"]
    assert not kinds["anon-shared"]
    assert not kinds["memfd-shared"]
    program = next(
        s for s, (start, *_rest) in zip(core.loads, core.files(), strict=False) if s.address == start
    )
    assert not program.file_size


def test_vdso_is_whole(case: Case) -> None:
    core = case.core(case.dumps.truth.process("lab-forked").pid)
    address = dict(core.auxv())[33]  # AT_SYSINFO_EHDR
    segment = core.segment_at(address)
    image = core.memory(address, segment.file_size)
    assert image[:4] == b"\x7fELF"
    assert b"__vdso_clock_gettime" in image
    end = struct.unpack_from("<Q", image, 40)[0] + 64 * struct.unpack_from("<H", image, 60)[0]
    assert 4096 < end <= len(image)
    assert any(image[4096:])


@pytest.mark.parametrize("form", ["zstd-d31"])
def test_excluded_pages_are_counted(one: Case, form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = Case(one.dumps, form, tmp_path_factory.mktemp("excluded"))
    core = case.core(one.dumps.truth.worker)
    assert core.report["missing"].get("excluded from dump", 0) > 500
    ranges = core.report["ranges"]
    assert sum(pages for _, pages, _ in ranges) == sum(core.report["missing"].values())
    area = one.dumps.truth.area("anon")
    assert any(int(start, 16) <= area.start < int(start, 16) + pages * 4096 for start, pages, _ in ranges)
    assert core.thread(one.dumps.truth.worker).registers["rip"]
    case.session.close()
