"""sys on a kernel made by hand."""

from __future__ import annotations

import struct

import pytest

from kcrash.output.sizes import size_text
from tests.commands.task_shell import data, run
from tests.linux.synthetic import TaskKernel

UTS = ("sysname", "nodename", "release", "version", "machine", "domainname")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> TaskKernel:
    monkeypatch.setenv("TZ", "UTC")
    kernel = TaskKernel()
    kernel.struct("new_utsname", **dict.fromkeys(UTS, "char [65]"))
    kernel.struct("uts_namespace", name="struct new_utsname")
    kernel.struct("timekeeper", xtime_sec="unsigned long")
    kernel.struct("clocksource", mult="unsigned int", shift="unsigned int")
    kernel.struct("taint_flag", c_true="char", c_false="char")
    names = {f"name__{field}": field.encode() for field in UTS}
    kernel.symbol("init_uts_ns", kernel.new("struct uts_namespace", **names))
    kernel.symbol("timekeeper", kernel.words(1795245562))
    kernel.symbol("clocksource_jiffies", kernel.new("struct clocksource", mult=4_000_000 << 8, shift=8))
    kernel.symbol("jiffies_64", kernel.words((1 << 32) - 300 * 250 + 250 * 3661))
    kernel.symbol("avenrun", kernel.words(164, 41, 0))
    kernel.symbol("tainted_mask", kernel.words(0))
    kernel.symbol("taint_flags", kernel.memory.add(b"PGF "), 4)
    kernel.symbol("cpu_khz", kernel.memory.add(struct.pack("<I", 2596992)))
    return kernel


BANNER = [
    "KERNEL: vmlinux",
    "DUMPFILE: vmcore",
    "CPUS: 2",
    "DATE: Sat Nov 21 07:19:22 UTC 2026",
    "UPTIME: 01:01:01",
    "LOAD AVERAGE: 0.08, 0.02, 0.00",
    "TASKS: 7",
    "NODENAME: nodename",
    "RELEASE: release",
    "VERSION: version",
    "MACHINE: machine (2596 Mhz)",
    "MEMORY: 3.9 MB",
    'PANIC: ""',
]


def test_banner(kernel: TaskKernel) -> None:
    import time

    time.tzset()
    assert run(kernel, "sys") == BANNER


def test_what_is_amiss_is_marked(kernel: TaskKernel) -> None:
    kernel.memory.write(kernel.symbols.address("tainted_mask"), b"\2")
    kernel.memory.write(kernel.symbols.address("__cpu_online_mask"), b"\1")
    kernel.dump.info.dump_level = 31
    kernel.dump.cut = True
    head = kernel.words(0, 0)
    kernel.symbol("klp_patches", head)
    found = run(kernel, "sys")
    assert found[0] == "KERNEL: vmlinux [TAINTED] [LIVEPATCH]"
    assert found[1] == "DUMPFILE: vmcore [PARTIAL DUMP] [INCOMPLETE]"
    assert found[2] == "CPUS: 2 [OFFLINE: 1]"
    assert run(kernel, "sys -t") == ["TAINTED_MASK: 2 F"]


def test_a_field_that_cannot_be_read_does_not_hide_the_others(kernel: TaskKernel) -> None:
    kernel.memory.holes.add(kernel.symbols.address("avenrun"))
    found = run(kernel, "sys", status=1)
    assert found[5] == "LOAD AVERAGE: (unknown)"
    assert found[:5] == BANNER[:5]
    assert "sys: LOAD AVERAGE: kernel address" in found[-1]


def test_json(kernel: TaskKernel) -> None:
    found = data(kernel, "sys")[0]
    assert found["uptime"] == 3661
    assert found["memory"] == 4096000
    assert found["tasks"] == 7
    assert found["date"] == 1795245562


def test_system_calls(kernel: TaskKernel) -> None:
    read, write = kernel.memory.add(b"\xcc"), kernel.memory.add(b"\xcc")
    kernel.symbol("__x64_sys_read", read)
    kernel.symbol("__x64_sys_write", write)
    kernel.symbol("sys_call_table", kernel.words(read, write, 0x1234), 24)
    header = "NUM SYSTEM CALL FILE AND LINE NUMBER"
    rows = ["0 __x64_sys_read ../fs/read_write.c: 621", "1 __x64_sys_write", "2 1234"]
    assert run(kernel, "sys -c") == [header, *rows]
    assert run(kernel, "sys -c read") == [header, rows[0]]
    assert run(kernel, "sys -c 0x1") == [header, rows[1]]
    assert run(kernel, "sys -c 99") == []


def test_firmware(kernel: TaskKernel) -> None:
    kernel.enum("dmi_field", "DMI_NONE", "DMI_BIOS_VENDOR", "DMI_BIOS_VERSION", "DMI_STRING_MAX")
    kernel.symbol("dmi_ident", kernel.words(0, kernel.memory.add(b"SeaBIOS\0" + bytes(512)), 0))
    assert run(kernel, "sys -i") == ["DMI_BIOS_VENDOR: SeaBIOS"]


def test_refusals(kernel: TaskKernel) -> None:
    assert run(kernel, "sys -panic", status=1) == ["sys: cannot panic a dumpfile!"]
    assert "unknown argument" in run(kernel, "sys foo", status=1)[0]
    assert "kernel_config_data does not exist" in run(kernel, "sys config", status=1)[0]


@pytest.mark.parametrize(
    ("size", "text"), [(196466 << 12, "767.4 MB"), (64 << 30, "64 GB"), (4 << 30, "4 GB"), (5120, "5 KB")]
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text
