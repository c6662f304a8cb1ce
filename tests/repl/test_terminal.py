"""The interactive shell on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78]|\][^\x07]*\x07)")


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, home: Path, *args: str) -> None:
        self.text = ""
        environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "TERM": "xterm",
            "LINES": "24",
            "COLUMNS": "80",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "SHELL": "/bin/sh",
        }
        environment.pop("PAGER", None)
        command = [sys.executable, "-m", "tests.repl.front_end", *args]
        self.pid, self.fd = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execve(command[0], command, environment)

    def expect(self, wanted: str, seconds: float = 15) -> str:
        """Read until ``wanted`` was shown; what came before, too."""
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} not in {self.text!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                assert data, f"ended before {wanted!r}: {self.text!r}"
                self.text = _ESCAPES.sub("", self.text + data.decode("utf-8", "replace"))
        end_at = self.text.index(wanted) + len(wanted)
        shown, self.text = self.text[:end_at], self.text[end_at:]
        return shown

    def answer(self, wanted: str) -> str:
        """As `expect`, and wait for the next prompt: keys typed before it may get lost."""
        shown = self.expect(wanted)
        self.expect("kcrash>")
        time.sleep(0.1)
        return shown

    def send(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def status(self) -> int:
        """The exit status, or minus the signal."""
        end = time.monotonic() + 15
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.1)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path, "-s", "--no_scroll", "-e", "emacs")
    yield made
    made.close()


def test_lines_and_end_of_input(terminal: Terminal, tmp_path: Path) -> None:
    terminal.expect("kcrash>")
    terminal.send("btop 512a000\r")
    assert "512a000: 512a" in terminal.answer("512a\r\n")
    terminal.send("\x04")
    assert terminal.status() == 0
    history = tmp_path / "state" / "kcrash" / "history"
    assert history.read_text() == "btop 512a000\n"
    assert history.stat().st_mode & 0o777 == 0o600


def test_failure_shows_and_counts(terminal: Terminal) -> None:
    terminal.expect("kcrash>")
    terminal.send("nosuch\r")
    terminal.answer("kcrash: command not found: nosuch")
    terminal.send("q\r")
    assert terminal.status() == 1


def test_completion(terminal: Terminal) -> None:
    terminal.expect("kcrash>")
    terminal.send("repe\t")
    terminal.expect("repeat")
    terminal.send("-1 bto\t")
    terminal.expect("btop")
    terminal.send("\x01\x0b")
    terminal.send("btop 3000\r")
    terminal.expect("3000: 3")


def test_history_commands(terminal: Terminal) -> None:
    terminal.expect("kcrash>")
    terminal.send("btop 1000\r")
    terminal.answer("1000: 1\r\n")
    terminal.send("ptob 7\r")
    terminal.answer("7: 7000\r\n")
    terminal.send("!1\r")
    terminal.answer("1000: 1\r\n")
    terminal.send("r pt\r")
    terminal.answer("7: 7000\r\n")
    terminal.send("h\r")
    assert "[2] ptob 7" in terminal.answer("[5] h\r\n")
    terminal.send("\x1b[A\x1b[A\r")  # up, up
    terminal.answer("7: 7000\r\n")


def test_interrupts(terminal: Terminal) -> None:
    terminal.expect("kcrash>")
    terminal.send("half a li\x03")
    terminal.expect("kcrash>")
    terminal.send("repeat -9 btop 5000\r")
    terminal.expect("5000: 5\r\n")
    terminal.send("\x03")
    terminal.expect("kcrash>")
    terminal.send("!sleep 60\r")
    time.sleep(0.5)
    terminal.send("\x03")
    terminal.expect("kcrash>")
    terminal.send("btop 6000\r")
    terminal.answer("6000: 6\r\n")


def test_pager(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "-e", "emacs")
    try:
        terminal.expect("kcrash>")
        terminal.send("btop 1000\r")
        assert "\n:" not in terminal.answer("1000: 1\r\n")
        terminal.send("help input\r")
        shown = terminal.expect("\n:")
        assert shown.count("\n") < 40
        terminal.send("q")
        terminal.expect("kcrash>")
        terminal.send("btop 2000\r")
        terminal.answer("2000: 2\r\n")
    finally:
        terminal.close()


def test_pager_variable_and_interrupt_in_the_pager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASHPAGER", "head -n 3")
    terminal = Terminal(tmp_path)
    try:
        terminal.expect("kcrash>")
        terminal.send("help input\r")
        shown = terminal.expect("kcrash>")
        assert shown.count("\n") < 8
    finally:
        terminal.close()


def test_banner(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        assert "kcrash 0" in terminal.expect("kcrash>")
    finally:
        terminal.close()
