"""log, mod, sym, rd and dis against crash 9.0.2; the guest's own /proc/kallsyms where crash prints (?).

What is let pass is named by a function here and told, with its proof, in differences.md.
"""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from tests.parity.conftest import Parity, diff, normal

pytestmark = pytest.mark.lab

FORMS = ("elf", "zlib-d31", "qemu-zlib")
LOG = (
    "log",
    "log -t",
    "log -m",
    "log -T",
    "log -d",
    "log -c",
    "log -Tm",
    "log -tm",
    "log -cm",
    "log -dm",
    "log -a",
)
MOD = ("mod", "mod -t")
SYM = (
    "sym -l",
    "sym -M",
    "sym -m zram",
    "sym -m virtio_blk",
    "sym -q reboot",
    "sym -q zram",
    "sym schedule",
    "sym -n schedule",
    "sym -p schedule",
    "sym -np schedule",
    "sym init_task linux_banner jiffies",
    "sym zram_add",
    "sym -np zram_open",
    "sym cleanup_module",
    "sym runqueues",
    "sym t_start",
    "sym _text",
    "sym _stext",
    "sym _end",
    "sym __per_cpu_offset",
    "sym 0",
    "sym 123",
    "sym ffffffffffffffff",
    "sym nosuchsymbol",
)
RD = (
    "rd linux_banner 20",
    "rd -8 linux_banner 33",
    "rd -16 linux_banner 33",
    "rd -32 linux_banner 33",
    "rd -64 linux_banner 5",
    "rd -d init_task 20",
    "rd -D init_task 20",
    "rd -32 -d init_task 20",
    "rd -8 -D init_task 40",
    "rd -16 -D init_task 20",
    "rd -32 -D init_task 20",
    "rd -8 -d init_task 40",
    "rd -16 -d init_task 20",
    "rd -s init_task 40",
    "rd -SS init_task 40",
    "rd -a linux_banner",
    "rd -a linux_banner 20",
    "rd -a linux_banner 61",
    "rd -x init_task 20",
    "rd -xs init_task 4",
    "rd -32 -x init_task 20",
    "rd -R init_task 4",
    "rd -o 8 init_task 4",
    "rd -o 0x10 init_task",
    "rd -32 -N linux_banner 8",
    "rd -16 -N linux_banner 8",
    "rd -p 100000 4",
    "rd -p -32 200010 9",
    "rd -f 0 16",
    "rd -f 1000 16",
    "rd jiffies",
    "rd saved_command_line",
    "rd init_task 1000",
)
DIS = (
    "dis schedule",
    "dis -l schedule",
    "dis -r schedule+64",
    "dis -f schedule+64",
    "dis -x schedule 10",
    "dis schedule 10",
    "dis -rl schedule+64",
    "dis zram_open",
    "dis do_syscall_64",
    "dis machine_kexec",
    "dis vfs_read",
    "dis entry_SYSCALL_64",
    "dis asm_exc_page_fault",
    "dis ext4_get_block",
)
COMMANDS = (*LOG, *MOD, *SYM, *RD, *DIS)

STAMP = re.compile(r"^\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d) UTC (\d{4})\]")


def comparable(parity: Parity, command: str) -> tuple[list[str], list[str]]:
    """crash's lines and ours, in the words that both must share."""
    theirs, ours = parity.crash(command), parity.kcrash(command)
    if command.startswith("dis"):
        return labels(theirs), labels(ours)
    if command.startswith("log -T"):
        ours = shifted(ours, stamp(theirs) - stamp(ours), parity)
    lines, mine = normal(theirs), normal(ours)
    if command.startswith("sym"):
        mine = [line.removeprefix("sym: ") if "symbol not found" in line else line for line in mine]
        mine = [line for line in mine if "__pfx_sev_es_terminate" not in line]  # see its own test
        return with_letters(lines, mine), mine
    if command.startswith("rd"):
        return memory_words(command, lines), memory_words(command, mine)
    return lines, mine


def labels(text: str) -> list[str]:
    """Addresses, symbols and lines of source: the decoders differ in how they write an instruction."""
    text = re.sub(r"(.*:\t(data16|cs|nop|xchg +%ax,%ax).*\n)+\Z", "", text)  # padding, see differences.md
    places = (re.match(r"0x[0-9a-f]+ <[^>]+>:", line) for line in normal(text))
    lines = (line for line in normal(text) if re.search(r"\.[chS]: \d+$", line))
    targets = re.findall(r"\b(?:call|j[a-z]+)q? +(0x[0-9a-f]+ <[^>]+>)", text)
    return [*(place.group(0) for place in places if place), *lines, *targets]


def stamp(text: str) -> float:
    """The first time stamp, in seconds."""
    found = STAMP.match(text)
    assert found, text[:80]
    return datetime.strptime(" ".join(found.groups()), "%a %b %d %H:%M:%S %Y").timestamp()


def shifted(text: str, seconds: float, parity: Parity) -> str:
    """Our log with its stamps moved by what crash's boot time is off: nothing but where it mistakes HZ."""
    from kcrash.linux.time import hz, jiffies

    if not seconds:
        return text
    session = parity.session
    # crash: (jiffies - INITIAL_JIFFIES) / HZ with 1000 for HZ in both places.
    wrong = (jiffies(session) - (-300 * 1000 & 0xFFFFFFFF)) // 1000
    right = (jiffies(session) - (-300 * hz(session) & 0xFFFFFFFF)) // hz(session)
    assert hz(session) != 1000 and seconds == right - wrong

    def move(line: str) -> str:
        moved = datetime.fromtimestamp(stamp(line) + seconds).strftime("%a %b %e %H:%M:%S UTC %Y")
        return STAMP.sub(f"[{moved}]", line)

    return "\n".join(move(line) if STAMP.match(line) else line for line in text.splitlines())


def with_letters(theirs: list[str], ours: list[str]) -> list[str]:
    """crash's lines, with our letter for its (?): kallsyms of the guest proves those."""
    if len(theirs) != len(ours):
        return theirs
    letters = (re.search(r" \(([a-zA-Z])\) ", line) for line in ours)
    pairs = zip(theirs, letters, strict=True)
    return [line.replace(" (?) ", f" ({letter.group(1)}) ") if letter else line for line, letter in pairs]


def memory_words(command: str, lines: list[str]) -> list[str]:
    """Slab names as addresses; signed where the command said so; -N without the text beside it."""
    lines = [re.sub(r"\[([0-9a-f]{16}):[^]]+\]", r"\1", line) for line in lines]
    size = {"rd -8 -d": 8, "rd -16 -d": 16}.get(command.rpartition(" init")[0], 0)
    if size:
        return [" ".join(str(int(word) % (1 << size)) for word in line.split()[1:]) for line in lines]
    if not lines or any(line.startswith("rd: ") for line in lines):  # crash is silent of excluded pages
        return ["cannot be read"]
    words = 9 if "-16 -N" in command else 5
    return [" ".join(line.split()[:words]) for line in lines] if "-N" in command else lines


def test_same(parity: Parity, command: str) -> None:
    theirs, ours = comparable(parity, command)
    assert theirs or command == "mod -t"
    if theirs != ours:
        pytest.fail(f"{parity.kernel} {parity.form}: {command}\n{diff(theirs, ours)}", pytrace=False)


def test_letters_are_those_of_the_guest(parity: Parity) -> None:
    """The proof of the letters that crash does not know: what the guest read in /proc/kallsyms."""
    told = re.findall(r"^(\w+) (\w) (\S+)\t\[(\w+)\]$", parity.dumps.truth.facts["/proc/kallsyms"], re.M)
    listed = set(normal(parity.kcrash("sym -M")))
    assert len(told) > 10 and {letter for _address, letter, _name, _module in told} >= set("tdbr")
    for address, letter, name, _module in told:
        assert {f"{address} ({letter}) {name}", f"{address} ({letter.upper()}) {name}"} & listed, name
    assert normal(parity.crash("sym -M")) != normal(parity.kcrash("sym -M")), "crash has learnt the letters"


def test_the_kernel_s_symbols_are_those_of_the_guest(parity: Parity) -> None:
    told = re.findall(r"^(\w+) (\w) (\w+)$", parity.dumps.truth.facts["/proc/kallsyms"], re.M)
    assert len(told) >= 6
    for address, _letter, name in told:
        assert int(address, 16) == parity.session.symbols.address(name)


def test_a_symbol_that_crash_drops_is_in_the_file(parity: Parity) -> None:
    """``__pfx_sev_es_terminate`` shares the kernel's first byte with _stext."""
    from elftools.elf.elffile import ELFFile

    with parity.dumps.vmlinux.open("rb") as file:
        there = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name("__pfx_sev_es_terminate")
    shown = [line for line in normal(parity.kcrash("sym -l")) if "__pfx_sev_es_terminate" in line]
    assert len(shown) == len(there or ())
    assert "__pfx_sev_es_terminate" not in parity.crash("sym -l")


def test_a_page_that_is_excluded_is_said_to_be(parity: Parity) -> None:
    """The page at 2 MiB holds the dead kernel's free memory: -d 31 leaves it out, crash prints nothing."""
    command = "rd -p -32 200010 9"
    if parity.form != "zlib-d31":
        assert normal(parity.kcrash(command)) == normal(parity.crash(command)) != []
        return
    assert normal(parity.crash(command)) == []
    assert normal(parity.kcrash(command)) == ["rd: physical address 200010: excluded from dump"]


def test_small_signed_numbers_are_signed(parity: Parity) -> None:
    """``rd -d`` with 8 and 16 bits: crash prints them unsigned."""
    import struct

    address = parity.session.symbols.address("init_task")
    shown = [
        int(word) for line in normal(parity.kcrash("rd -16 -d init_task 20")) for word in line.split()[1:]
    ]
    assert shown == list(struct.unpack("<20h", parity.session.memory.read(address, 40)))
    assert min(shown) < 0
