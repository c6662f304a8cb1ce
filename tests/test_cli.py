"""The program as a user and a script see it: options, exit status, streams, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

KCRASH = (sys.executable, "-m", "kcrash")
FRONT_END = (sys.executable, "-m", "tests.repl.front_end")


def run(
    *args: str,
    program: Sequence[str] = FRONT_END,
    text: str = "",
    home: Path | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "HOME": str(home or "/nonexistent"), "PYTHONPATH": root, "SHELL": "/bin/sh"}
    environment.pop("KCRASH_TRACEBACK", None)
    return subprocess.run(
        [*program, *args], input=text, capture_output=True, text=True, env=environment, cwd=cwd, timeout=60
    )


def test_version() -> None:
    for flag in ("-v", "--version"):
        done = run(flag, program=KCRASH)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("kcrash ")


def test_help() -> None:
    done = run("-h", program=KCRASH)
    assert done.returncode == 0 and "kcrash [options] [VMLINUX] [VMCORE]" in done.stdout
    assert "--zero_excluded" in done.stdout
    done = run("--help", "eval", program=KCRASH)
    assert done.returncode == 0 and "\nNAME\n  eval - " in done.stdout
    assert run("-h", "nosuch", program=KCRASH).returncode == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-Z"], "kcrash: invalid option -- 'Z'\nUsage: kcrash [options] [VMLINUX] [VMCORE]\n"),
        (["--hex", "--dec"], "kcrash: --hex and --dec are mutually exclusive\n"),
    ],
)
def test_wrong_options(args: list[str], message: str) -> None:
    done = run(*args, program=KCRASH)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith(message)


def test_files_that_cannot_be_opened_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    for args in (
        ["/no/such/file"],
        [str(tmp_path / "junk")],
        [str(tmp_path)],
        ["--osrelease", "/no/such/file"],
    ):
        done = run(*args, program=KCRASH)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("kcrash: ") and done.stderr.count("\n") == 1, done.stderr
        assert "internal error" not in done.stderr


def test_commands() -> None:
    done = run("-s", "-c", "btop 512a000", "-c", "ptob 512a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "512a000: 512a\n512a: 512a000\n", "")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("btop 1000\n", 0),
        ("btop 1000\nexit\nnosuch\n", 0),
        ("nosuch\nbtop 1000\n", 1),
        ("nosuch\nexit\n", 1),
        ("", 0),
        ("# only a comment", 0),
    ],
)
def test_exit_status_of_a_script(script: str, status: int) -> None:
    done = run(text=script)
    assert done.returncode == status
    assert done.stdout == ("1000: 1\n" if "btop" in script else "")
    assert "kcrash>" not in done.stdout


def test_script_order_of_output_and_errors() -> None:
    """Errors come where they happened, if both streams go to one place."""
    script = "btop 1000; nosuch; btop 2000; !echo shell; btop 3000 | cat".replace("; ", "\n")
    done = subprocess.run(
        FRONT_END, input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "SHELL": "/bin/sh"},
    )  # fmt: skip
    wanted = ["1000: 1", "kcrash: command not found: nosuch", "2000: 2", "shell", "3000: 3"]
    assert done.stdout.splitlines() == wanted


def test_input_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("btop 1000\n")
    assert run("-i", str(tmp_path / "a file"), text="btop 2000\n").stdout == "1000: 1\n2000: 2\n"
    done = run("-i", "/no/such/file")
    assert (done.returncode, done.stderr) == (1, "kcrash: /no/such/file: No such file or directory\n")


def test_json() -> None:
    done = run("--json", "-c", "btop 1000", "-c", "nosuch", "-c", "alias")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert objects[0] == {"command": "btop", "kind": "page", "address": "0x1000", "pfn": 1}
    assert objects[1] == {"command": "kcrash", "kind": "fault", "error": "command not found: nosuch"}
    assert {o["command"] for o in objects[2:]} == {"alias"}
    assert done.returncode == 1


def test_symbols_are_values() -> None:
    assert "hexadecimal: ffffffff82007988" in run("-c", "eval jiffies + 8").stdout


def test_minimal() -> None:
    assert run("--minimal", "-c", "eval 1").returncode == 0
    done = run("--minimal", "-c", "btop 1")
    assert (done.returncode, done.stderr) == (1, "btop: btop: command not available in minimal mode\n")


def test_startup_files(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (home / ".kcrashrc").write_text("alias homely eval 1\n")
    (here / ".kcrashrc").write_text("alias local eval 2\n")
    text = run("-c", "alias", home=home, cwd=here).stdout
    assert "homely" in text and f"{here}/.kcrashrc local" in text
    assert "homely" not in run("--no_crashrc", "-c", "alias", home=home, cwd=here).stdout
    (here / ".kcrashrc").chmod(0o666)
    done = run("-c", "alias", home=home, cwd=here)
    assert "local" not in done.stdout and "homely" in done.stdout and ".kcrashrc: not read" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_startup_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / ".kcrashrc").write_text("!echo owned\n")
    os.chown(tmp_path / ".kcrashrc", 65534, 65534)
    assert "owned" not in run("-c", "eval 1", cwd=tmp_path).stdout


def test_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*FRONT_END, "-c", "help input"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_broken_pipe_is_quiet() -> None:
    script = "help input\n" * 200
    program = subprocess.Popen(
        FRONT_END, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdin and program.stdout and program.stderr
    program.stdin.write(script)
    program.stdin.close()
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() == -signal.SIGPIPE


def test_closed_stdout() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(FRONT_END)} -c 'eval 1' >&-"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def test_interrupt(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [*FRONT_END, "-c", "btop 1000", "-c", "repeat -9 btop 2000", "-c", "btop 3000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=20)
    assert out == "1000: 1\n2000: 2\n"
    assert "Traceback" not in err
    assert program.returncode == 130


def test_input_that_is_not_text() -> None:
    done = subprocess.run(FRONT_END, input=b"btop 1000\n\xff\xfe \x1b[2J\n", capture_output=True)
    assert done.returncode == 1
    assert done.stdout == b"1000: 1\n" and b"\x1b" not in done.stderr and b"Traceback" not in done.stderr


def test_latin1_terminal_gets_escapes(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FRONT_END, "-c", "alias x €uro"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0 and b"\\u20acuro" in done.stdout
