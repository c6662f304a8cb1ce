"""The command: arguments, refusals, output; and everything that can go wrong with a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.extensions.gcore.conftest import Case
from tests.extensions.gcore.corefile import CoreFile


def _kcrash(case: Case, line: str) -> list[str]:
    files = (str(case.dumps.vmlinux), str(case.dumps.forms[case.form]))
    return [sys.executable, "-m", "kcrash", "-s", "-x", *files, "-c", line]


def _lines(case: Case, line: str) -> list[str]:
    return case.run(line)[1].splitlines()


def test_the_default_name(one: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pid = one.dumps.truth.worker
    name = next(t.name for t in one.dumps.truth.threads if t.tid == pid)
    status, text = one.run(f"gcore {pid}")
    assert status == 0
    assert text.splitlines()[0] == f"Saved core.{pid}.{name}"
    path = tmp_path / f"core.{pid}.{name}"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_thread_comes_first(one: Case, tmp_path: Path) -> None:
    thread = one.dumps.truth.thread("poll")
    assert one.run(f"gcore -o {tmp_path}/ {thread.tid}")[0] == 0
    core = CoreFile(tmp_path / f"core.{thread.pid}.{thread.name}")
    assert core.threads[0].pid == thread.tid
    assert {t.pid for t in core.threads} == {t.pid for t in one.worker.threads}


def test_by_address_and_by_name(one: Case, tmp_path: Path) -> None:
    from kcrash.linux.tasks import task_table

    thread = one.dumps.truth.thread("vfork")
    task = task_table(one.session).by_pid[thread.tid][0]
    assert one.run(f"gcore -o {tmp_path}/a {task.address:x}")[0] == 0
    assert one.run(f"gcore -o {tmp_path}/ lab-vfork")[0] == 0
    found = {path.name for path in tmp_path.iterdir()}
    assert found >= {"a", f"core.{thread.pid}.lab-vfork"}


def test_foreach_writes_every_process_once(one: Case, tmp_path: Path) -> None:
    status, _text = one.run(f"foreach gleader gcore -o {tmp_path}")
    assert status == 1  # the zombie's fault
    rows = [json.loads(row) for row in _lines(one, "foreach gleader ps --json")]
    alive = {row["pid"] for row in rows if row["state"] not in ("ZO", "DE")}
    alive.add(one.dumps.truth.process("lab-deadlead").pid)  # only its leader is dead
    assert {int(path.name.split(".")[1]) for path in tmp_path.iterdir()} == alive
    twice = one.dumps.truth.worker
    (tmp_path / "more").mkdir()
    assert one.run(f"foreach {twice} gcore -o {tmp_path}/more")[0] == 0
    assert [path.name.split(".")[1] for path in (tmp_path / "more").iterdir()] == [str(twice)]


def test_several_at_once(one: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Processes and a word that names none: the cores are written, the word is complained of."""
    truth = one.dumps.truth
    pids = [truth.worker, truth.process("lab-forked").pid]
    status, text = one.run(f"gcore -o {tmp_path} {pids[0]} nonsense {pids[1]}")
    assert status == 1
    assert text.count("Saved ") == 2
    assert "nonsense" in text + capsys.readouterr().err
    assert {int(path.name.split(".")[1]) for path in tmp_path.iterdir()} == set(pids)
    assert [CoreFile(path).report["pid"] for path in sorted(tmp_path.iterdir())] == sorted(pids)


def test_a_name_that_several_processes_have(one: Case, tmp_path: Path) -> None:
    """A core of each process with a thread of that name; the thread is the core's first."""
    threads = one.dumps.truth.threads_in("futex")
    assert len({thread.pid for thread in threads}) > 2
    assert one.run(f"gcore -o {tmp_path}/ lab-futex")[0] == 0
    first = {CoreFile(path).report["pid"]: CoreFile(path).threads[0].pid for path in tmp_path.iterdir()}
    assert first == {thread.pid: thread.tid for thread in threads}


def test_one_file_for_several(one: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = one.dumps.truth
    pids = f"{truth.worker} {truth.process('lab-forked').pid}"
    assert one.run(f"gcore -o {tmp_path}/x {pids}")[0] == 1
    assert "is no folder, and 2 cores are to be written" in capsys.readouterr().err
    assert one.run(f"gcore -o - {pids}")[0] == 1
    assert "one process only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_refusals(one: Case) -> None:
    truth = one.dumps.truth
    kernel = next(t for t in truth.tasks if t.tid == 2)
    status, text = one.run(f"gcore {kernel.tid}")
    assert (status, text.count("\n")) == (1, 1)
    assert "kernel thread" in text
    zombie = truth.process("lab-zombie").pid
    status, text = one.run(f"gcore {zombie}")
    assert status == 1
    assert "zombie" in text
    status, text = one.run("gcore 99999999")
    assert status == 1
    assert "invalid task or pid value" in text


def test_dead_leader(one: Case, tmp_path: Path) -> None:
    """The leader has exited, its thread lives: the core is of what lives."""
    truth = one.dumps.truth
    pid = truth.process("lab-deadlead").pid
    assert one.run(f"gcore -o {tmp_path}/x {pid}")[0] == 0
    core = CoreFile(tmp_path / "x")
    thread = next(t for t in truth.threads if t.pid == pid)
    assert [t.pid for t in core.threads] == [thread.tid]
    assert core.report["exiting"] == [pid]
    assert core.note("PRPSINFO")[1:2] == b"." or core.note("PRPSINFO")[2]


@pytest.mark.parametrize("line", ["gcore -f 256 1", "gcore -v 8 1", "gcore -f x 1"])
def test_bad_arguments(one: Case, line: str) -> None:
    status, text = one.run(line)
    assert status == 1
    assert "Saved" not in text


def test_report_writes_nothing(one: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pid = one.dumps.truth.worker
    status, text = one.run(f"gcore --report {pid}")
    assert status == 0
    assert not list(tmp_path.iterdir())
    assert "/disk/cowed" in text
    rows = [json.loads(row) for row in _lines(one, f"gcore --report --json {pid}")]
    total = next(row for row in rows if row["kind"] == "gcore")
    mappings = [row for row in rows if row["kind"] == "mapping"]
    assert total["present"] == sum(row["present"] for row in mappings)
    assert total["present"] == one.worker.report["present"]
    assert {row["pid"] for row in rows if row["kind"] == "thread"} == {t.pid for t in one.worker.threads}


def test_json(one: Case, tmp_path: Path) -> None:
    (row,) = [json.loads(r) for r in _lines(one, f"gcore --json -o {tmp_path}/x {one.dumps.truth.worker}")]
    assert row["kind"] == "core"
    assert row["file"] == f"{tmp_path}/x"
    assert row["missing"] == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_leaves_nothing(one: Case, tmp_path: Path, number: signal.Signals) -> None:
    words = _kcrash(one, f"gcore -o {tmp_path}/x {one.dumps.truth.worker}")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_standard_output_in_one_pass(one: Case, tmp_path: Path) -> None:
    path = tmp_path / "piped"
    words = _kcrash(one, f"gcore -o - {one.dumps.truth.worker}")
    with path.open("wb") as file:
        first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        subprocess.run(["cat"], stdin=first.stdout, stdout=file, check=True)
        errors = first.communicate()[1]
    assert (first.returncode, errors) == (0, b"")
    assert path.read_bytes() == one.worker.path.read_bytes()


def test_into_a_pipeline_of_the_shell(one: Case, tmp_path: Path) -> None:
    pid = one.dumps.truth.worker
    assert one.run(f"gcore -o - {pid} | cat > {tmp_path}/x")[0] == 0
    assert one.run(f"gcore -o - {pid} > {tmp_path}/y")[0] == 0
    for name in "xy":
        assert (tmp_path / name).read_bytes() == one.worker.path.read_bytes()


def test_reader_that_goes_away(one: Case) -> None:
    words = _kcrash(one, f"gcore -o - {one.dumps.truth.worker}")
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.read(4)
    first.stdout.close()
    assert first.stderr is not None
    errors = first.stderr.read()
    assert first.wait() in (1, 141, -13)
    assert b"Traceback" not in errors


def test_not_to_a_terminal(one: Case) -> None:
    import pty

    master, slave = pty.openpty()
    words = _kcrash(one, "gcore -o - 1")
    done = subprocess.run(words, stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 1
    assert "terminal" in done.stderr


def test_sparse(one: Case) -> None:
    stat = one.worker.path.stat()
    assert stat.st_blocks * 512 < stat.st_size / 4
    last = one.worker.loads[-1]
    assert stat.st_size == last.offset + last.file_size


def test_a_stream_to_a_device(one: Case) -> None:
    assert one.run(f"gcore -o /dev/null {one.dumps.truth.worker}")[0] == 0
    assert Path("/dev/null").is_char_device()


def test_full_device(one: Case) -> None:
    status, text = one.run(f"gcore -o /dev/full {one.dumps.truth.worker}")
    assert status == 1
    assert text == "gcore: /dev/full: No space left on device\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_full_disk(one: Case, tmp_path: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=False)
    if done.returncode:
        pytest.skip("PEER MISSING: cannot mount a tmpfs here")
    try:
        status, text = one.run(f"gcore -o {tmp_path}/x {one.dumps.truth.worker}")
        assert status == 1
        assert text == f"gcore: {tmp_path}/x: No space left on device\n"
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_folder_that_is_not_there(one: Case, tmp_path: Path) -> None:
    status, text = one.run(f"gcore -o {tmp_path}/none/x {one.dumps.truth.worker}")
    assert (status, text) == (1, f"gcore: {tmp_path}/none/x: No such file or directory\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(one: Case, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    status, text = one.run(f"gcore -o {tmp_path}/x {one.dumps.truth.worker}")
    assert (status, text) == (1, f"gcore: {tmp_path}/x: Permission denied\n")


def test_unwritable_file_system(one: Case) -> None:
    status, text = one.run(f"gcore -o /proc/x {one.dumps.truth.worker}")
    assert status == 1
    assert text.startswith("gcore: /proc/x: ")


def test_what_was_there_stays_until_the_core_is_whole(one: Case, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    assert one.run(f"gcore -o {tmp_path}/x 2")[0] == 1
    assert (tmp_path / "x").read_text() == "old"
    assert one.run(f"gcore -o {tmp_path}/x {one.dumps.truth.worker}")[0] == 0
    assert (tmp_path / "x").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_midway(one: Case, tmp_path: Path, number: signal.Signals) -> None:
    """A FIFO that nobody reads from holds the writer up; a file beside it would be half-written."""
    words = [
        sys.executable, "-c", _SLOW, str(one.dumps.vmlinux), str(one.dumps.forms[one.form]),
        str(tmp_path / "x"), str(one.dumps.truth.worker),
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(600):
        if any(path.stat().st_size for path in tmp_path.iterdir()):
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGKILL)
    names = [path.name for path in tmp_path.iterdir()]
    assert "x" not in names
    assert number == signal.SIGKILL or not names


# The core's pages come slowly, so that a signal arrives in the middle.
_SLOW = """
import sys, time
from kcrash.extensions.gcore.collect import Collector
read = Collector.read
def slow(self, *rest):
    time.sleep(0.2)
    return read(self, *rest)
Collector.read = slow
import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
shell = Shell(kcrash.open(*sys.argv[1:3]), REGISTRY)
import kcrash.extensions.gcore
raise SystemExit(shell.run(f"gcore -o {sys.argv[3]} {sys.argv[4]}"))
"""
