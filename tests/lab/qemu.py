"""A guest under QEMU: console as a file, monitor over QMP, a time limit on every wait."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.architectures import AMD64, Architecture
from tests.lab.toolbox import Toolbox, kill_group

# vda: what the capture kernel saved; vdb: the first kernel's files; vdc: the capture kernel's files.
DISKS = ("saved", "disk", "scratch")
BROKEN = ("Kernel panic", "BUG:", "Oops:", "double fault")


class GuestBroke(Exception):
    """The guest died, hung or ran into a time limit: worth another try."""


@dataclass(frozen=True)
class Machine:
    """What the guest is made of; part of the key of the dumps."""

    memory: int = 768
    cpus: int = 2
    cpu: str = "max"
    append: str = ""
    arch: Architecture = field(default=AMD64, repr=False)

    def arguments(self, folder: Path, image: Path) -> list[str]:
        """QEMU's argv for a kernel image, with initrd.gz and the disks in folder."""
        drive = "if=virtio,format=raw,discard=unmap,detect-zeroes=unmap,cache=unsafe"
        reserved = "crashkernel=256M " if self.arch.capture else ""
        command_line = f"console={self.arch.console} {reserved}panic_on_oops=1 {self.append}".strip()
        return [
            *(*self.arch.qemu, "-accel", "tcg,thread=multi", "-cpu", self.cpu),
            *("-smp", str(self.cpus), "-m", str(self.memory), "-no-reboot", "-display", "none"),
            *("-kernel", str(image), "-initrd", str(folder / "initrd.gz"), "-append", command_line),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-monitor", "none"),
            *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
            *(word for disk in DISKS for word in ("-drive", f"file={folder}/{disk},{drive}")),
        ]


class Guest:
    """A running guest."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._monitor = Monitor(folder / "qmp")

    def console(self) -> str:
        """All the console printed up to now."""
        return (self._folder / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    def wait_for(self, line: str, limit: float) -> None:
        """Returns when the console has the line; GuestBroke when the guest broke or limit seconds passed."""
        for _ in _ticks(limit):
            console = self.console()
            if f"\n{line}" in console:
                return
            self._complain_if_broken(console)
        raise GuestBroke(f"no {line} on the console within {limit:.0f} s")

    def _complain_if_broken(self, console: str) -> None:
        for line in console.splitlines():
            if any(word in line for word in BROKEN):
                raise GuestBroke(line[:100])
        if self._process.poll() is not None:
            raise GuestBroke("QEMU ended early")

    def wait_end(self, limit: float) -> None:
        """Returns when QEMU ended."""
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise GuestBroke(f"no end within {limit:.0f} s") from None

    def send(self, line: str) -> None:
        """A line to the console."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def do(self, command: str, **arguments: Any) -> Any:
        """A QMP command's return value."""
        return self._monitor.do(command, **arguments)


class Monitor:
    """QMP (QEMU: docs/interop/qmp-spec), one command at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(120)
            self._socket.connect(str(self._path))
            self._lines = self._socket.makefile("r")
            self._lines.readline()  # the greeting
            self._say("qmp_capabilities")
        return self._socket

    def do(self, command: str, **arguments: Any) -> Any:
        """Runs a command; RuntimeError when QEMU refuses it."""
        self._connected()
        return self._say(command, **arguments)

    def _say(self, command: str, **arguments: Any) -> Any:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"QMP {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise GuestBroke("QEMU's monitor closed")


def _ticks(limit: float) -> Iterator[None]:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        yield
        time.sleep(0.25)


@contextlib.contextmanager
def booted(box: Toolbox, machine: Machine, image: Path, folder: Path) -> Iterator[Guest]:
    """A guest that is gone when the block ends, however it ends."""
    argv = box.command(machine.arguments(folder, image), [folder])
    with (
        (folder / "console.log").open("wb") as console,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield Guest(process, folder)
        finally:
            kill_group(process.pid)
