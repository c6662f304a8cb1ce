"""Comparing kcrash with crash 9.0.2, line by line, on the lab's dumps.

A module of comparisons holds the command lines and one test::

    COMMANDS = ("ps", "ps -k", "sys -t")          # crash runs them in this order, in one go a dump

    def test_same(parity: Parity, command: str) -> None:
        parity.check(command)

* ``parity`` comes once for each kernel and form of dump, ``command`` once for each of the module's COMMANDS:
  the test above is kernels x forms x commands tests. A module may narrow that by ``KERNELS = ("6.12",)`` and
  ``FORMS = ("elf",)``; COMMANDS may be a function ``(dumps, form) -> commands`` if a command names what the
  dump holds: then use ``parity.commands`` in a loop and no ``command`` argument.
* ``parity.check(command)`` fails with a diff unless both print the same but for blanks and blank lines;
  ``check(command, known=lambda line: ...)`` drops lines (of both) for which ``known`` is true: for the places
  where crash is wrong, each listed with its proof in differences.md.
* ``parity.crash(command)``, ``parity.kcrash(command)``: the outputs, what goes to stderr included.
  ``parity.dumps`` (tests.lab.lab.Dumps), ``parity.form``, ``parity.dump`` (path), ``parity.session``.
  Each command line runs in a kcrash of its own state, but on one session a dump: the context task is put
  back before each; so do not let one line depend on another (crash does run them in sequence).
* A kernel that crash cannot open (it cannot be told in advance) skips all tests of it, with its last words.
* ``normal(text)``: the lines with their blanks squeezed, blank lines dropped.

Kernels: those of ``KCRASH_LAB_KERNELS`` (default 6.1,6.12); forms: ``KCRASH_LAB_FORMS`` (default a few
of each kind; ``all``). A kernel whose dumps are not made yet is skipped loudly unless ``KCRASH_LAB=1``
makes them.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import forms, lab

if TYPE_CHECKING:
    from kcrash.session import Session

KERNELS = tuple(os.environ.get("KCRASH_LAB_KERNELS", "6.1,6.12").split(","))
FORMS = ("elf", "qemu-elf", "qemu-zlib", "zlib-d1", "zstd-d31")
MARK = 7777000000  # eval prints it between the commands, in four lines


def _forms() -> tuple[str, ...]:
    wanted = os.environ.get("KCRASH_LAB_FORMS", "")
    return tuple(forms.FORMS) if wanted == "all" else tuple(wanted.split(",")) if wanted else FORMS


def normal(text: str) -> list[str]:
    """Lines with single blanks, blank ones dropped."""
    squeezed = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in squeezed if line]


def diff(theirs: list[str], ours: list[str]) -> str:
    """How lines of crash and of kcrash differ, cut to what one can read."""
    return "\n".join(difflib.unified_diff(theirs, ours, "crash", "kcrash", lineterm="", n=1))[:4000]


class CrashFailed(Exception):
    """crash did not come to the end of its commands; its last words."""


class Captured:
    """A place for the output of one command line."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def close(self) -> int:
        return 0


@dataclass(eq=False)
class Parity:
    """One dump, both programs."""

    kernel: str
    form: str
    dumps: lab.Dumps
    session: Session
    commands: Sequence[str]
    _crash: dict[str, str] = field(default_factory=dict)
    _failure: str = ""

    @property
    def dump(self) -> Path:
        """The dump's file."""
        return self.dumps.forms[self.form]

    def crash(self, command: str) -> str:
        """What crash prints. Skips, and says why, where crash does not open the dump."""
        if command not in self._crash and not self._failure:
            wanted = [*self.commands] if command in self.commands else [command]
            try:
                self._crash.update(run_crash(self.dumps, self.form, wanted))
            except CrashFailed as error:
                self._failure = str(error)
        if self._failure:
            pytest.skip(f"crash fails on {self.form} of {self.kernel}: {self._failure}")
        return self._crash[command]

    def kcrash(self, command: str) -> str:
        """What kcrash prints."""
        return run_kcrash(self.session, command)

    def check(self, command: str, known: Callable[[str], bool] = lambda line: False) -> None:
        """Fail with a diff unless both print the same."""
        theirs = [line for line in normal(self.crash(command)) if not known(line)]
        ours = [line for line in normal(self.kcrash(command)) if not known(line)]
        if theirs != ours:
            pytest.fail(f"{self.kernel} {self.form}: {command}\n{diff(theirs, ours)}", pytrace=False)


def run_crash(dumps: lab.Dumps, form: str, commands: Sequence[str]) -> dict[str, str]:
    """The output of each command, of one run of crash."""
    script = []
    for number, command in enumerate(commands):
        script += [f"eval {MARK + number}", command]
    script.append(f"eval {MARK + len(commands)}")
    output = lab.toolbox().crash(dumps.vmlinux, dumps.forms[form], script)
    pieces = re.split(r"hexadecimal: .*\n *decimal: 7777\d{6} *\n *octal: .*\n *binary: .*\n", output)
    if len(pieces) != len(commands) + 2:
        raise CrashFailed(" ".join(output.split())[-300:])
    return dict(zip(commands, pieces[1:], strict=False))


def run_kcrash(session: Session, command: str) -> str:
    """The output of a command line, errors included."""
    from kcrash.commands._shell import Shell

    session.context = None
    out, errors = Captured(), io.StringIO()
    shell = Shell(session, stdout=lambda: out)
    with contextlib.redirect_stderr(errors):
        shell.run(command)
    return "".join(out.parts) + errors.getvalue()


# -- fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module
    if "parity" in metafunc.fixturenames:
        cases = [
            (kernel, form)
            for kernel in getattr(module, "KERNELS", KERNELS)
            for form in getattr(module, "FORMS", _forms())
            if kernel in KERNELS and (form in _forms() or "KCRASH_LAB_FORMS" not in os.environ)
        ]
        metafunc.parametrize(
            "parity", cases, ids=["-".join(case) for case in cases], indirect=True, scope="module"
        )
    if "command" in metafunc.fixturenames:
        metafunc.parametrize("command", module.COMMANDS)


def lab_dumps(kernel: str, form: str) -> lab.Dumps:
    """The dumps of a kernel; skips, and says why, if they cannot be had."""
    lab.require(kernel)
    try:
        return lab.dumps(kernel, names=[form])
    except Exception as error:
        pytest.skip(f"the lab cannot make {form} of {kernel}: {error}")


@pytest.fixture(scope="module")
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """Both programs on one dump."""
    import kcrash

    kernel, form = request.param
    dumps = lab_dumps(kernel, form)
    session = kcrash.open(str(dumps.vmlinux), str(dumps.forms[form]))
    commands = getattr(request.module, "COMMANDS", ())
    if callable(commands):
        commands = commands(dumps, form)
    yield Parity(kernel, form, dumps, session, commands)
    session.close()
