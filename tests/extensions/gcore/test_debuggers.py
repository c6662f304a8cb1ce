"""What debuggers make of the cores: gdb, readelf, elfutils."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.extensions.gcore.conftest import Case
from tests.lab.truth import Entry


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"PEER MISSING: {command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def _gdb(case: Case, core: Path, *commands: str) -> str:
    settings = ("set sysroot " + str(case.dumps.sysroot), "set debuginfod enabled off", "set width 0")
    words = ["gdb", "-nx", "-batch"]
    for line in settings:
        words += ["-iex", line]
    words += [str(case.dumps.workload), str(core)]
    for line in commands:
        words += ["-ex", line]
    return _run(*words)


def _stacks(text: str) -> dict[int, list[str]]:
    """LWP -> names of its frames, innermost first."""
    found: dict[int, list[str]] = {}
    for part in re.split(r"^Thread \d+ ", text, flags=re.MULTILINE)[1:]:
        lwp = re.search(r"LWP (\d+)", part)
        assert lwp is not None
        frames = re.findall(
            r"^#\d+ +(?:0x[0-9a-f]+ in )?(<signal handler called>|[^ (]+)", part, re.MULTILINE
        )
        found[int(lwp[1])] = ["<signal>" if name.startswith("<signal") else name for name in frames]
    return found


def test_gdb_walks_every_threads_stack(case: Case) -> None:
    truth = case.dumps.truth
    text = _gdb(case, case.worker.path, "thread apply all bt")
    stacks = _stacks(text)
    for thread in truth.threads:
        if thread.pid != truth.worker:
            continue
        names = stacks[thread.tid]
        at = names.index(thread.frames[0])
        assert tuple(names[at : at + len(thread.frames)]) == thread.frames, thread.name
        assert at == 0 or thread.entry == Entry.LIBC
    assert "warning: core file may not match" not in text
    assert "corrupt" not in text


def test_gdb_reads_thread_locals(case: Case) -> None:
    truth = case.dumps.truth
    text = _gdb(
        case, case.worker.path, "thread apply all -q -s p/x tls_marker", "thread apply all -q p $_thread"
    )
    core = case.worker
    threads = [t for t in truth.threads if t.pid == truth.worker]
    values = {int(value, 16) for value in re.findall(r"= (0x[0-9a-f]+)", text)}
    assert values >= {thread.tls_value for thread in threads}
    for thread in threads:
        assert int.from_bytes(core.memory(thread.tls_address, 8), "little") == thread.tls_value


def test_gdb_reads_vectors(case: Case) -> None:
    truth = case.dumps.truth
    text = _gdb(case, case.worker.path, "p/x $ymm3.v2_int128", "p $st0", "p/x $mxcsr")
    thread = next(t for t in truth.threads if t.tid == truth.worker)
    assert thread.vector is not None
    data = thread.vector.ymm(3)
    halves = [int.from_bytes(data[i : i + 16], "little") for i in (0, 16)]
    shown = re.findall(r"0x[0-9a-f]+", text.split("$1 = ")[1].split("\n")[0])
    assert [int(value, 16) for value in shown] == halves[
        : thread.vector.width // 16
    ] or thread.vector.width == 16


def test_gdb_reads_auxv_and_mappings(case: Case) -> None:
    truth = case.dumps.truth
    text = _gdb(case, case.worker.path, "info auxv", "info proc mappings")
    assert "AT_SYSINFO_EHDR" in text
    assert '"/bin/workload"' in text
    for start, end, offset, name in case.worker.files():
        assert re.search(
            rf"{start:#x} +{end:#x} +{end - start:#x} +{offset * 4096:#x} .*{re.escape(name)}", text
        )
    assert truth.worker


def test_gdb_reads_memory(case: Case) -> None:
    area = case.dumps.truth.area("swap-mix")
    text = _gdb(case, case.worker.path, f"x/2gx {area.start:#x}")
    words = [int.from_bytes(area.content[i : i + 8], "little") for i in (0, 8)]
    assert f"{words[0]:#018x}\t{words[1]:#018x}" in text


def test_gdb_opens_a_32_bit_core(case: Case) -> None:
    truth = case.dumps.truth
    thread = next((t for t in truth.threads if t.entry == Entry.COMPAT), None)
    if thread is None:
        pytest.skip("the workload has no 32-bit process")
    path = case.folder / "compat.core"
    status, text = case.run(f"gcore -o {path} {thread.pid}")
    assert status == 0, text
    program = case.dumps.sysroot / "bin" / "compat32"
    text = _run("gdb", "-nx", "-batch", "-ex", "info registers", "-ex", "bt", str(program), str(path))
    names = {"rbx": "ebx", "rcx": "ecx", "rdx": "edx", "rsi": "esi", "rdi": "edi", "rbp": "ebp", "rip": "eip"}
    for wide, narrow in names.items():
        assert re.search(rf"^{narrow} +{thread.registers[wide]:#x} ", text, re.MULTILINE), (narrow, text)
    assert re.search(r"^#0 .*\bparked\b", text, re.MULTILINE)


@pytest.mark.parametrize(
    "command", [("readelf", "-nlW"), ("eu-readelf", "-nl")], ids=["binutils", "elfutils"]
)
def test_readelf_parses_it(one: Case, command: tuple[str, str]) -> None:
    text = _run(*command, str(one.worker.path))
    for kind in ("PRSTATUS", "PRPSINFO", "SIGINFO", "AUXV", "FILE", "X86_XSTATE"):
        assert kind in text
    assert text.count("X86_XSTATE") >= 15
    assert not re.search(r"error|corrupt|warning: note", text, re.IGNORECASE)


def _told_stacks(case: Case) -> dict[int, tuple[str, ...]]:
    truth = case.dumps.truth
    threads = [t for t in truth.threads if t.pid == truth.worker and not t.altstack]
    return {t.tid: t.frames for t in threads}


def test_eu_stack(one: Case) -> None:
    text = _run("eu-stack", f"--core={one.worker.path}", f"--executable={one.dumps.workload}")
    parts = re.split(r"^TID (\d+):$", text, flags=re.MULTILINE)[1:]
    found = {
        int(tid): re.findall(r"^#\d+ +\S+ (\S+)", body, re.M)
        for tid, body in zip(parts[::2], parts[1::2], strict=True)
    }
    for tid, frames in _told_stacks(one).items():
        at = found[tid].index(frames[0])
        assert tuple(found[tid][at : at + len(frames)]) == frames


def test_lldb(one: Case) -> None:
    folder = one.dumps.sysroot / "lib" / "x86_64-linux-gnu"
    commands = [
        f"settings set target.exec-search-paths {folder}",
        f"target create --core {one.worker.path} {one.dumps.workload}",
        "thread backtrace all",
    ]
    text = _run("lldb", "-b", *(word for line in commands for word in ("-o", line)))
    parts = re.split(r"^[* ] thread #(\d+)", text.partition("thread backtrace all")[2], flags=re.MULTILINE)[
        2::2
    ]
    found = [re.findall(r"frame #\d+: \S+ [^`\n]+`(\w+)", part) for part in parts]
    assert len(found) == len(one.worker.threads)
    for thread, names in zip(one.worker.threads, found, strict=True):
        frames = _told_stacks(one).get(thread.pid)
        if frames is not None:
            at = names.index(frames[0])
            assert tuple(names[at : at + len(frames)]) == frames, thread.pid


def _lldb(case: Case, core: Path, *commands: str) -> str:
    folder = case.dumps.sysroot / "lib" / "x86_64-linux-gnu"
    words = ["lldb", "-b", "-o", f"settings set target.exec-search-paths {folder}"]
    words += ["-o", f"target create --core {core} {case.dumps.workload}"]
    return _run(*words, *(word for line in commands for word in ("-o", line)))


def test_lldb_reads_registers_and_memory(one: Case) -> None:
    """General and vector registers of the first thread, and memory that was swapped out. (lldb 14 shows no
    ymm of any core, nor of one that the kernel wrote.)"""
    truth = one.dumps.truth
    thread = next(t for t in truth.threads if t.tid == truth.worker)
    area = truth.area("swap-mix")
    names = ("rbx", "rbp", "rsp", "rip", "r12", "r15")
    text = _lldb(
        one,
        one.worker.path,
        f"register read {' '.join(names)} xmm5",
        f"memory read -f x -s 8 -c 2 {area.start:#x}",
    )
    shown = {
        name: int(value, 16) for name, value in re.findall(r"^ +(\w+) = (0x[0-9a-f]+)\b", text, re.MULTILINE)
    }
    assert {name: shown[name] for name in names} == {name: thread.registers[name] for name in names}
    assert thread.vector is not None
    data = re.search(r"xmm5 = \{((?:0x[0-9a-f]{2} ?)+)\}", text)
    assert data is not None
    assert bytes(int(byte, 16) for byte in data[1].split()) == thread.vector.xmm(5)
    words = [int.from_bytes(area.content[i : i + 8], "little") for i in (0, 8)]
    assert f"{words[0]:#018x} {words[1]:#018x}" in text


def test_eu_readelf_shows_the_registers(one: Case) -> None:
    """Each thread's, as elfutils lays out the note."""
    text = _run("eu-readelf", "-n", str(one.worker.path))
    parts = re.split(r"^ +CORE +\d+ +PRSTATUS$", text, flags=re.MULTILINE)[1:]
    assert len(parts) == len(one.worker.threads)
    for thread, part in zip(one.worker.threads, parts, strict=True):
        values = re.findall(r"\b(rip|rbx|r12|rsp|fs\.base|orig_rax): +(0x[0-9a-f]+|-?\d+)", part)
        found = {name.replace(".", "_"): int(value, 0) & (1 << 64) - 1 for name, value in values}
        assert found == {name: thread.registers[name] for name in found}
        assert len(found) == 6


MANY = 70000  # more than e_phnum can say


@pytest.fixture(scope="module")
def many(one: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's notes, and as many segments, the last with a page of sevens."""
    from kcrash.extensions.gcore.elf import Form, Load, make_layout

    note = one.worker.segments[0]
    one.worker.file.seek(note.offset)
    notes = one.worker.file.read(note.file_size)
    loads = [Load(0x10000 + 0x2000 * n, 0x1000, 0x1000 * (n + 1 == MANY), 6) for n in range(MANY)]
    layout = make_layout(Form(8, "little", 62), notes, loads)
    path = tmp_path_factory.mktemp("many") / "core"
    path.write_bytes(layout.head.ljust(layout.data, b"\0") + b"\7" * 4096 + layout.tail)
    assert path.stat().st_size == layout.total
    return path


def test_gdb_opens_more_segments_than_the_header_counts(one: Case, many: Path) -> None:
    last = 0x10000 + 0x2000 * (MANY - 1)
    text = _run("gdb", "-nx", "-batch", "-ex", "info threads", "-ex", f"x/gx {last:#x}", "--core", str(many))
    assert f"{last:#x}:\t0x0707070707070707" in text
    assert text.count("LWP") >= len(one.worker.threads)


@pytest.mark.parametrize(
    "command", [("readelf", "-hlW"), ("eu-readelf", "-hl")], ids=["binutils", "elfutils"]
)
def test_readelf_counts_them(many: Path, command: tuple[str, str]) -> None:
    text = _run(*command, str(many))
    assert len(re.findall(r"^ +LOAD ", text, re.MULTILINE)) == MANY
    assert re.search(rf"\b65535 \({MANY + 1}\b", text)
