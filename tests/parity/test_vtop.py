"""``vtop`` against crash 9.0.2, and against the page frames that the guest read in its /proc/PID/pagemap."""

from __future__ import annotations

import re

import pytest

from tests.lab.lab import Dumps
from tests.parity.conftest import Parity, diff, normal

pytestmark = pytest.mark.lab

FORMS = ("elf", "zlib-d1", "qemu-elf")
PAGE = 4096
LAST = "vtop ffffffffffffffff"


def kernel_addresses(dumps: Dumps) -> list[str]:
    """Of the image and of modules, as the guest saw them."""
    return re.findall(r"^(\w{16}) ", dumps.truth.facts["/proc/kallsyms"], re.M)


def user_addresses(dumps: Dumps) -> list[tuple[int, int]]:
    """``(pid, address)``: the first and the third page of every kind of memory."""
    return [(area.pid, area.start + at) for area in dumps.truth.areas for at in (0x10, 2 * PAGE)]


def COMMANDS(dumps: Dumps, form: str) -> list[str]:  # the name that conftest looks for
    kernel = [f"vtop {address}" for address in kernel_addresses(dumps)]
    user = [f"vtop -c {pid} {address:x}" for pid, address in user_addresses(dumps)]
    return [*kernel, "vtop fffffe0000000000", LAST, *user]


def comparable(text: str) -> list[str]:
    """The name of a mapped file without what /proc/PID/maps adds to it: kcrash writes what that has."""
    lines = normal(text)
    vma = next((i + 1 for i, line in enumerate(lines) if line.startswith("VMA START")), 0)
    if vma and len(lines[vma].split()) > 4:
        words = lines[vma].split()
        lines[vma] = " ".join([*words[:4], words[4].lstrip("/")])
    if lines[-1].startswith("FILE: "):
        lines[-1] = lines[-1].replace(" (deleted)", "").replace("FILE: /", "FILE: ")
    return lines


def is_inverted(text: str) -> bool:
    """True for memory without any access: crash does not invert the address in its entries (L1TF)."""
    return "|PROTNONE" in text


def test_same(parity: Parity) -> None:
    wrong, files = [], 0
    for command in parity.commands:
        if command == LAST or is_inverted(parity.crash(command)):
            continue  # tests of their own, below
        theirs, ours = comparable(parity.crash(command)), comparable(parity.kcrash(command))
        files += theirs[-1].startswith("FILE: ")
        assert len(theirs) >= 2, command
        if theirs != ours:
            wrong.append(f"{command}\n{diff(theirs, ours)}")
    if wrong:
        pytest.fail(f"{parity.kernel} {parity.form}: {len(wrong)}\n" + "\n".join(wrong)[:6000], pytrace=False)
    assert len(parity.commands) > 50 and files >= 2


def test_frames_are_those_that_the_guest_read(parity: Parity) -> None:
    """No mapping moved between the guest's reading and the dump: the threads are parked."""
    checked = 0
    for area in parity.dumps.truth.areas:
        for index in range(0, area.size // PAGE, area.page_step):
            frame, address = area.page_of(index), area.start + index * PAGE
            if frame <= 0 or index > 8:
                continue
            shown = normal(parity.kcrash(f"vtop -c {area.pid} {address:x}"))[1]
            assert shown == f"{address:x} {frame * PAGE:x}", area.kind
            checked += 1
    assert checked > 60


def test_crash_misreads_memory_without_access(parity: Parity) -> None:
    """The proof: the guest's pagemap has other frames than crash (see differences.md)."""
    area = parity.dumps.truth.area("prot-none")
    theirs = parity.crash(f"vtop -c {area.pid} {area.start + 0x10:x}")
    assert is_inverted(theirs) and f" {area.page_of(0) * PAGE + 0x10:x}" not in theirs


def test_the_last_address_is_mapped_by_nothing(parity: Parity) -> None:
    """crash prints a physical address for it, above page tables that end in 0."""
    theirs, ours = normal(parity.crash(LAST)), normal(parity.kcrash(LAST))
    assert theirs[2:] == ours[2:] and ours[-1].endswith("=> 0")
    assert ours[1] == "ffffffffffffffff (not mapped)" != theirs[1]
