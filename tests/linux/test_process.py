"""States, memory, limits, times and clocks of a kernel made by hand."""

from __future__ import annotations

import struct
import zlib

import pytest

from kcrash.errors import CommandError, CorruptData, MemoryFault
from kcrash.linux import process, system, time
from kcrash.linux.tasks import Task, task_table
from tests.linux.synthetic import Kernel, TaskKernel

# What crash 9.0.2 printed for a dump whose tasks had been given these state words (state | exit_state).
CRASH_LETTERS = {
    0x0: "RU", 0x1: "IN", 0x2: "UN", 0x4: "ST", 0x8: "TR", 0x10: "DE", 0x20: "ZO", 0x40: "PA", 0x80: "DE",
    0x100: "??", 0x200: "WA", 0x400: "??", 0x800: "NE", 0x1000: "??", 0x2000: "??", 0x8000: "??",
    0x30: "ZO", 0x102: "UN", 0x2001: "IN", 0x2002: "UN", 0x2402: "ID", 0x1002: "UN", 0x3: "UN", 0xA0: "ZO",
    0x90: "DE", 0x104: "ST", 0x108: "TR", 0x602: "ID", 0x241: "IN", 0x8002: "UN", 0x440: "??", 0x6: "ST",
    0x48: "TR",
}  # fmt: skip
CRASH_NAMES = {
    0x0: "TASK_RUNNING", 0x1: "TASK_INTERRUPTIBLE", 0x40: "TASK_PARKED", 0x80: "EXIT_DEAD", 0x1000: "",
    0x30: "EXIT_DEAD|EXIT_ZOMBIE", 0x90: "EXIT_DEAD|TASK_DEAD", 0x102: "TASK_UNINTERRUPTIBLE|TASK_WAKEKILL",
    0x602: "TASK_UNINTERRUPTIBLE|TASK_WAKING|TASK_NOLOAD", 0x241: "TASK_INTERRUPTIBLE|TASK_WAKING",
    0x6: "TASK_UNINTERRUPTIBLE|TASK_STOPPED", 0x440: "TASK_NOLOAD", 0x800: "TASK_NEW", 0x8: "TASK_TRACED",
}  # fmt: skip

MODERN = ("R (running)", "S (sleeping)", "D (disk sleep)", "T (stopped)", "t (tracing stop)", "X (dead)",
          "Z (zombie)", "P (parked)", "I (idle)")  # fmt: skip
V3_10 = ("R (running)", "S (sleeping)", "D (disk sleep)", "T (stopped)", "t (tracing stop)", "Z (zombie)",
         "X (dead)", "x (dead)", "K (wakekill)", "W (waking)", "P (parked)")  # fmt: skip


def state_array(kernel: Kernel, texts: tuple[str, ...]) -> None:
    pointers = [kernel.memory.add(text.encode() + b"\0") for text in texts]
    kernel.symbol("task_state_array", kernel.words(*pointers), 8 * len(texts))


@pytest.mark.parametrize("texts", [(), MODERN])
def test_state_letters_are_those_of_crash(texts: tuple[str, ...]) -> None:
    kernel = Kernel()
    if texts:
        state_array(kernel, texts)
    states = process.states(kernel.session)
    assert {state: states.letters(state) for state in CRASH_LETTERS} == CRASH_LETTERS
    assert {state: states.names(state) for state in CRASH_NAMES} == CRASH_NAMES


def test_old_kernels_number_states_otherwise() -> None:
    kernel = Kernel()
    state_array(kernel, V3_10)
    states = process.states(kernel.session)
    assert [states.letters(bits) for bits in (0x10, 0x20, 0x40, 0x100, 0x200)] == [
        "ZO",
        "DE",
        "DE",
        "WA",
        "PA",
    ]


def task(kernel: TaskKernel, name: str) -> Task:
    return task_table(kernel.session).by_address[kernel.tasks[name]]


def test_memory_counts_what_the_threads_hold_back() -> None:
    kernel = TaskKernel()
    for name, held in (("worker", 5), ("worker-2", -1)):
        at = kernel.tasks[name] + kernel.types.offset("struct task_struct", "rss_stat.count")
        kernel.memory.write(at, struct.pack("<4i", held, 1, 100, 0))
    assert process.task_memory(kernel.session, task(kernel, "worker-1")) == (33 + 6 + 0, 500)
    assert process.task_memory(kernel.session, task(kernel, "init")) == (33, 500)
    assert process.task_memory(kernel.session, task(kernel, "kthreadd")) == (0, 0)


@pytest.mark.parametrize("gap", [4, 400])
def test_memory_of_percpu_counters(gap: int) -> None:
    kernel = TaskKernel()
    kernel.struct("percpu_counter", count="long", counters="void *")
    kernel.struct("mm_struct", total_vm="unsigned long", rss_stat="struct percpu_counter [4]")
    kernel.types = type(kernel.types)("little", 8)
    kernel.types.add(kernel.source)
    counters = kernel.memory.add(bytes(0x10000 + 4 * gap))
    for cpu, deltas in ((0, (1, -2, 50, 3)), (1, (0, 5, 60, 0))):
        for place, delta in enumerate(deltas):
            kernel.memory.write(counters + 0x10000 * cpu + gap * place, struct.pack("<i", delta))
    fields = b"".join(struct.pack("<qQ", count, counters + gap * n) for n, count in enumerate((10, 20, 7, 3)))
    mm = kernel.memory.add(struct.pack("<Q", 99) + fields)
    kernel.set("struct task_struct", kernel.tasks["init"], mm=mm)
    assert process.task_memory(kernel.session, task(kernel, "init")) == (33 + 7, 99)


def test_memory_of_an_mm_that_is_not_in_the_dump_faults() -> None:
    kernel = TaskKernel()
    kernel.set("struct task_struct", kernel.tasks["init"], mm=0x1000)
    with pytest.raises(MemoryFault):
        process.task_memory(kernel.session, task(kernel, "init"))


def test_limits() -> None:
    kernel = TaskKernel()
    worker = task(kernel, "worker")
    at = worker.signal + kernel.types.offset("struct signal_struct", "rlim")
    kernel.memory.write(at + 7 * 16, struct.pack("<QQ", 1024, 4096))
    found = process.rlimits(kernel.session, worker)
    assert [limit.name for limit in found] == list(process.RLIMITS)
    assert found[7] == ("NOFILE", 1024, 4096)
    assert found[0] == ("CPU", None, None)


def test_absurd_argument_ranges_give_nothing() -> None:
    kernel = TaskKernel()
    init = task(kernel, "init")
    for start, end in ((0x1000, 0x1000), (0x2000, 0x1000), (0, 1 << 60)):
        kernel.set("struct mm_struct", init.mm, arg_start=start, arg_end=end)
        assert process.arguments(kernel.session, init) == []


# -- clocks


def clock(kernel: Kernel, tick: int, jiffies: int) -> None:
    kernel.struct("clocksource", mult="unsigned int", shift="unsigned int")
    kernel.symbol("clocksource_jiffies", kernel.new("struct clocksource", mult=tick << 8, shift=8))
    kernel.symbol("jiffies_64", kernel.words(jiffies))


@pytest.mark.parametrize(
    ("tick", "hz"), [(4_000_000, 250), (1_000_000, 1000), (10_000_000, 100), (3_333_333, 300)]
)
def test_uptime(tick: int, hz: int) -> None:
    kernel = Kernel()
    clock(kernel, tick, (1 << 32) - 300 * hz + 7 * hz)
    assert time.hz(kernel.session) == hz
    assert time.uptime(kernel.session) == 7


def test_an_absurd_tick_is_an_error() -> None:
    kernel = Kernel()
    clock(kernel, 1, 0)
    with pytest.raises(CorruptData):
        time.hz(kernel.session)


@pytest.mark.parametrize("form", ["timekeeper", "tk_core", "tk_data"])
def test_wall_clock(form: str) -> None:
    kernel = Kernel()
    kernel.struct("timekeeper", pad="unsigned long", xtime_sec="unsigned long")
    if form == "timekeeper":
        kernel.symbol("timekeeper", kernel.words(0, 1_700_000_000))
    else:
        kernel.symbol("tk_core", kernel.words(1, 0, 1_700_000_000))
    if form == "tk_data":
        kernel.struct("tk_data", seq="unsigned long", timekeeper="struct timekeeper")
    assert time.wall_clock(kernel.session) == 1_700_000_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (3661, "01:01:01"), (264861, "3 days, 01:34:21")]
)
def test_days_and_clock(seconds: int, text: str) -> None:
    assert time.days_and_clock(seconds) == text


# -- the system


def test_load_average_is_that_of_proc() -> None:
    kernel = Kernel()
    kernel.symbol("avenrun", kernel.words(2048 * 12 + 2047, 2048 + 20, 5))
    assert [f"{load:.2f}" for load in system.load_average(kernel.session)] == ["13.00", "1.01", "0.00"]


def test_taint_names_the_bits_that_are_set() -> None:
    kernel = Kernel()
    kernel.struct("taint_flag", c_true="char", c_false="char", module="char")
    kernel.symbol("taint_flags", kernel.memory.add(b"PG\1F \0S \0"), 9)
    kernel.symbol("tainted_mask", kernel.words(0b1101))
    assert system.taint(kernel.session) == "PS"


def test_configuration() -> None:
    kernel = Kernel()
    with pytest.raises(CommandError, match="does not exist"):
        system.kernel_config(kernel.session)
    packer = zlib.compressobj(wbits=31)
    data = packer.compress(b"# Linux\nCONFIG_SMP=y\n") + packer.flush()
    kernel.symbol("kernel_config_data", kernel.memory.add(data), len(data))
    assert system.kernel_config(kernel.session) == ["# Linux", "CONFIG_SMP=y"]


def test_broken_configuration_is_an_error() -> None:
    kernel = Kernel()
    kernel.symbol("kernel_config_data", kernel.memory.add(b"nonsense"), 8)
    with pytest.raises(CorruptData):
        system.kernel_config(kernel.session)


LOG = ("Oops: 0002 [#1]", "kernel BUG at mm/x.c:1!", "Kernel panic - not syncing: Fatal exception",
       "sysrq: Trigger a crash")  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message", "sysrq"),
    [
        (LOG, LOG[2], False),
        (LOG[:2], LOG[1], False),
        (LOG[:1], LOG[0], False),
        ((*LOG, "SysRq : Trigger a crash"), "SysRq : Trigger a crash", True),
        (("Unable to handle kernel", "Bad mode in"), "Unable to handle kernel", False),
        (("nothing",), "", False),
    ],
)
def test_panic_cause(
    monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], message: str, sysrq: bool
) -> None:
    from kcrash.linux import printk

    records = [printk.LogRecord(n, None, 0, 0, None, line.encode()) for n, line in enumerate(lines)]
    monkeypatch.setattr(printk, "log_records", lambda session: iter(records))
    cause = system.panic_cause(Kernel().session)
    assert (cause.message, cause.sysrq) == (message, sysrq)
