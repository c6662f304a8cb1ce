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
* crash needs seconds to start: while the tests of one dump run, its run on the next one is under way.
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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.lab import forms, kernels, lab

if TYPE_CHECKING:
    from kcrash.session import Session

KERNELS = tuple(os.environ.get("KCRASH_LAB_KERNELS", "6.1,6.12").split(","))
ALL_KERNELS = KERNELS if "KCRASH_LAB_KERNELS" in os.environ else tuple(kernels.SUITES)
FORMS = ("elf", "qemu-elf", "qemu-zlib", "zlib-d1", "zstd-d31")
BEYOND_CRASH = ("(inlined) ", "(inlined in) ", "(in) ")
MARK = 7777000000  # eval prints it between the commands, in four lines


def _forms() -> tuple[str, ...]:
    wanted = os.environ.get("KCRASH_LAB_FORMS", "")
    return tuple(forms.FORMS) if wanted == "all" else tuple(wanted.split(",")) if wanted else FORMS


def normal(text: str) -> list[str]:
    """Lines with single blanks; without blank ones, and those that tell of inlining: crash has none."""
    squeezed = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in squeezed if line and not line.startswith(BEYOND_CRASH)]


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
    ahead: Callable[[], Future[dict[str, str]]]
    _crash: dict[str, str] = field(default_factory=dict)
    _failure: str = ""

    @property
    def dump(self) -> Path:
        """The dump's file."""
        return self.dumps.forms[self.form]

    def crash(self, command: str) -> str:
        """What crash prints. Skips, and says why, where crash does not open the dump."""
        if command not in self._crash and not self._failure:
            try:
                if command in self.commands:
                    self._crash.update(self.ahead().result())
                else:
                    self._crash.update(run_crash(self.dumps, self.form, [command]))
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


def with_gcore(session: Session) -> None:
    """gcore loaded: an extension is of the process, not of the session."""
    from kcrash.commands import REGISTRY

    if "gcore" not in REGISTRY:
        run_kcrash(session, "extend gcore")


# -- fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module
    if "parity" in metafunc.fixturenames:
        cases = [
            (kernel, form)
            for kernel in getattr(module, "KERNELS", KERNELS)
            for form in getattr(module, "FORMS", _forms())
            if kernel in ALL_KERNELS and (form in _forms() or "KCRASH_LAB_FORMS" not in os.environ)
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


def commands_of(module: ModuleType, dumps: lab.Dumps, form: str) -> Sequence[str]:
    """The command lines that a module compares on a dump."""
    found = getattr(module, "COMMANDS", ())
    return found(dumps, form) if callable(found) else found


class Runs:
    """Runs of crash, one a module and dump, in the background."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.pool = ThreadPoolExecutor(os.cpu_count())
        self.started: dict[tuple[str, str, str], Future[dict[str, str]]] = {}

    def of(self, module: ModuleType, kernel: str, form: str) -> Future[dict[str, str]]:
        """The run on a dump; the one that is going to be wanted next is started with it."""
        for case in self._from(module, (kernel, form)):
            self._start(module, *case)
        return self.started[module.__name__, kernel, form]

    def _from(self, module: ModuleType, case: tuple[str, str]) -> list[tuple[str, str]]:
        """A case and the next one among the tests that were chosen."""
        items = (item for item in self.session.items if getattr(item, "module", None) is module)
        callspecs = (getattr(item, "callspec", None) for item in items)
        chosen = dict.fromkeys(
            each.params["parity"] for each in callspecs if each and "parity" in each.params
        )
        order = [*chosen]
        place = order.index(case)
        return order[place : place + 2]

    def _start(self, module: ModuleType, kernel: str, form: str) -> None:
        key = (module.__name__, kernel, form)
        if key not in self.started and lab.cached(kernel):
            dumps = lab.dumps(kernel, names=[form])
            commands = commands_of(module, dumps, form)
            self.started[key] = self.pool.submit(run_crash, dumps, form, commands)


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """All runs of crash."""
    made = Runs(request.session)
    yield made
    made.pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def parity(request: pytest.FixtureRequest, runs: Runs) -> Iterator[Parity]:
    """Both programs on one dump."""
    import kcrash

    kernel, form = request.param
    dumps = lab_dumps(kernel, form)
    if form not in dumps.forms:
        pytest.skip(f"the tools of the lab cannot write {form} of {kernel}")
    session = kcrash.open(str(dumps.vmlinux), str(dumps.forms[form]))
    commands = commands_of(request.module, dumps, form)
    ahead = partial(runs.of, request.module, kernel, form)
    yield Parity(kernel, form, dumps, session, commands, ahead)
    session.close()
