"""``bt`` against crash 9.0.2, every task of every form; against QEMU's own registers where crash errs.

A task that runs in user space when QEMU takes the dump has its registers in QEMU's note. crash unwinds
what is left on its kernel stack instead (differences.md); such a task is compared with what QEMU's monitor
said of the CPU, and only with that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.parity import qemu_registers
from tests.parity.conftest import Parity, diff, normal

pytestmark = pytest.mark.lab

FORMS = ("elf", "zlib-d1", "zlib-d31", "qemu-elf", "qemu-zlib")
COMMANDS = (
    "foreach bt",
    "foreach bt -l",
    "foreach bt -f",
    "foreach bt -s",
    "foreach bt -sx",
    "foreach bt -t",
    "foreach bt -T",
    "foreach bt -ts",
    "foreach bt -Tsx",
    "foreach bt -e",
    "foreach bt -FF",
    "bt",
    "bt 0",
    "bt 1 2",
    "bt 99999",
    "bt -a",
    "bt -al",
    "bt -af",
    "bt -asx",
    "bt -c 0",
    "bt -c 1",
    "bt -c 0,1",
    "bt -c 0-1",
    "bt -c all",
    "bt -p",
    "bt -g 1",
    "bt -r 1",
    "bt -r",
    "bt -E",
    "bt -R do_idle",
    "bt -n idle -a",
)
FIRST = "PID: "


def blocks(text: str) -> dict[str, list[str]]:
    """The lines below each task's header; "" has those above the first."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in normal(text):
        if line.startswith(FIRST):
            current = line
            found[current] = []
        else:
            found[current].append(line)
    return found


def user_mode(parity: Parity) -> list[int]:
    """CPUs that ran user code when QEMU took the dump."""
    if parity.dumps.moment(parity.form) != "ready":
        return []
    cpus = qemu_registers.parse(parity.dumps.registers)
    assert cpus, "the lab has kept no registers of this machine"
    return [number for number, registers in enumerate(cpus) if qemu_registers.in_user_mode(registers)]


@cache
def tasks_in_user_mode(parity: Parity) -> list[str]:
    """Headers of the tasks that crash shows the stale stack of."""
    return [header for cpu in user_mode(parity) for header in blocks(parity.kcrash(f"bt -c {cpu}")) if header]


def plain_words(parity: Parity, line: str) -> str:
    """crash's -FF says of which slab cache an object is: kcrash has no slab caches here. And crash does not
    name a symbol if what it stands for was left out of the dump (__initdata, freed long ago)."""
    line = re.sub(r"\[([0-9a-f]{16}):[^]]+\]", r"\1", line)
    label, _colon, words = line.partition(": ")
    if not re.fullmatch("[0-9a-f]{16}", label):
        return line
    return f"{label}: " + " ".join(lost_symbol(parity, word) for word in words.split())


def lost_symbol(parity: Parity, word: str) -> str:
    """The address's symbol if its memory is not in the dump, else the word itself."""
    if not re.fullmatch("ffffffff[0-9a-f]{8}", word):
        return word
    address = int(word, 16)
    lost = parity.session.memory.try_read(address, 8) is None
    return (parity.session.symbols.format(address) or word) if lost else word


def without_empty_stacks(lines: list[str]) -> Iterator[str]:
    """The machine check and VMM communication stacks that crash leaves out, where nothing is on them."""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"CPU \d+ (VC|MCE) EXCEPTION", line) and following == "(none found)":
            continue
        yield line


def selector_only(line: str) -> str:
    """A segment register without what stands above its 16 bits in an overwritten frame."""
    return re.sub(r"(\bSS: )[0-9a-f]*([0-9a-f]{4})$", r"\1\2", line)


def comparable(parity: Parity, command: str, text: str) -> list[str]:
    """The lines of an output that both must share."""
    if command == "bt -E":
        return [line for line in without_empty_stacks(normal(text)) if line != "(none found)"]
    found = blocks(text)
    if "-n idle" in command:
        found = {header: lines for header, lines in found.items() if '"swapper/' not in header}
    for header in tasks_in_user_mode(parity):
        if header in found and "-r" not in command:  # of -T, the words of the stack are the same
            found[header] = [line for line in found[header] if "-T" in command and line.startswith("[")]
    lines = [selector_only(line) for header, below in found.items() for line in (header, *below)]
    return [plain_words(parity, line) for line in lines] if "-FF" in command else lines


def test_same(parity: Parity, command: str) -> None:
    theirs = comparable(parity, command, parity.crash(command))
    ours = comparable(parity, command, parity.kcrash(command))
    if theirs != ours:
        pytest.fail(f"{parity.kernel} {parity.form}: {command}\n{diff(theirs, ours)}", pytrace=False)


def test_every_task_is_compared(parity: Parity) -> None:
    found = blocks(parity.crash("foreach bt"))
    ps = normal(parity.kcrash("ps"))[1:]
    assert len(found) - 1 == len(ps) > 60
    assert len(tasks_in_user_mode(parity)) <= 1, "the guest has one CPU that spins"
    assert sum(len(lines) for lines in found.values()) > 600


REGISTERS = ("rip", "rsp", "rflags", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp",
             "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cs", "ss")  # fmt: skip


@pytest.mark.parametrize("cpu", [0, 1])
def test_a_running_task_shows_the_registers_of_its_cpu(parity: Parity, cpu: int) -> None:
    if parity.dumps.moment(parity.form) != "ready":
        assert not parity.form.startswith("qemu")
        return
    truth = qemu_registers.parse(parity.dumps.registers)[cpu]
    text = parity.kcrash(f"bt -c {cpu}")
    found = re.findall(r"\b([A-Z]\w+): +([0-9a-f]+)\b", text)
    shown = {name.lower(): int(value, 16) for name, value in reversed(found)}  # the first of a name
    assert {name: shown[name] for name in REGISTERS} == {name: truth[name] for name in REGISTERS}


def test_crash_shows_stale_registers_of_user_mode(parity: Parity) -> None:
    """The proof of the difference: QEMU says something else than crash. Falls when crash mends it."""
    for cpu in user_mode(parity):
        truth = qemu_registers.parse(parity.dumps.registers)[cpu]
        text = parity.crash(f"bt -c {cpu}")
        assert "#0 [" in text, "crash shows frames of the kernel, where the CPU is not"
        assert f"RFLAGS: {truth['rflags']:08x}" not in text or "ORIG_RAX" in text


def test_idle_tasks_are_left_out(parity: Parity) -> None:
    """``-n idle``: crash does so only where the CPU's registers come from kexec (differences.md)."""
    ours = blocks(parity.kcrash("bt -a -n idle"))
    everything = blocks(parity.kcrash("bt -a"))
    assert ours == {header: lines for header, lines in everything.items() if '"swapper/' not in header}
    if parity.dumps.moment(parity.form) == "panic":
        assert '"swapper/' not in parity.crash("bt -n idle -a")
