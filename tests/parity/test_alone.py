"""The dump alone against the dump with its vmlinux: the same commands, the same output.

What differs on purpose, and why (docs/without-vmlinux.md says it to the user):

* files and lines of source are in DWARF only;
* local labels, import tables and the like are left out of kallsyms (is_ignored_symbol() of
  scripts/kallsyms.c), so such a name in a vmlinux's output is another one of the same address in the dump's;
* kallsyms has no sizes: a symbol lasts up to the next one. Hence the padding behind a function in its
  disassembly, and names of data beyond the end of what they name;
* kallsyms lists per-CPU variables of before v6.15 as absolute: whether they are local is lost;
* BTF knows no difference between [] and [0];
* the bounds of arrays of characters are nowhere but in DWARF.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

import kcrash
from kcrash.session import Session
from tests.build.stripped import without_copies, without_vmcoreinfo
from tests.lab import lab
from tests.parity.conftest import diff, lab_dumps, normal, run_kcrash, with_gcore
from tests.unwind.support import KERNELS

pytestmark = pytest.mark.lab

FORMS = ("zlib-d1", "zlib-d31", "elf", "qemu-elf")  # the first is whole, and gets all the commands

WHOLE = (
    "sys", "sys -c", "sys -t", "sys -i", "ps", *(f"ps -{flag}" for flag in "ptcaglrsSAGukymHY"), "bt",
    *(f"bt -{flag}" for flag in "agplfFsxtTreEvo"), "bt -c 0", "bt -FF", "bt -n idle -a", "bt -R schedule",
    "foreach bt", "foreach bt -f", "foreach bt -F", "foreach bt -s -x", "foreach bt -t", "log",
    *(f"log -{flag}" for flag in "tTmdac"), "set", "set -v", "set -p", "set -c 0", "foreach set", "sym -l",
    "sym -m", "sym -M", "sym schedule", "sym linux_banner", "sym runqueues", "sym -q vm_area",
    "sym -p schedule", "sym -n schedule", "sym -m ext4", "sym jiffies init_task", "rd linux_banner 16",
    "rd -a linux_banner", "rd -8 linux_banner 8", "rd -16 jiffies 4", "rd -32 jiffies 4",
    "rd -s init_task 16", "rd -S init_task 32", "rd -x jiffies", "rd -d jiffies 2", "rd -D jiffies 2",
    "rd -p 0x1000000 4", "rd -N jiffies 2", "rd -R init_task 4", "rd -o 16 init_task 4",
    "rd -e init_task+64 init_task", "struct task_struct", "struct task_struct -o",
    "struct task_struct.pid,comm init_task", "task_struct init_task", "struct rq runqueues:a",
    "struct rq.nr_running runqueues:a", "struct list_head -l 0 modules", "struct -x mm_struct",
    "union sigval", "union thread_union", "*list_head init_task.tasks", "*task_struct.pid init_task",
    "struct page", "struct inode -o", "struct net_device", "struct sk_buff", "struct super_block",
    "struct rq -o", "p jiffies", "p -x jiffies", "p runqueues", "p runqueues:0", "p runqueues:a",
    "p init_task", "p init_mm", "p init_task.comm", "p &init_task.tasks", "p linux_banner",
    "p saved_command_line", "p modules", "p node_data", "p init_uts_ns", "p mem_section", "p slab_caches",
    "p super_blocks", "p net_namespace_list", "p init_net", "p prb", "p log_buf", "p jiffies_64",
    "p irq_stat:a", "p cpu_info:0", "p nosuchvariable", "p contig_page_data", "p boot_cpu_data",
    "p avenrun", "p swap_info", "p sizeof(struct task_struct)", "p tainted_mask", "whatis task_struct",
    "whatis init_task", "whatis schedule", "whatis runqueues", "whatis list_head.next",
    "whatis file_systems", "whatis jiffies", "whatis -o rq", "list task_struct.tasks -h init_task",
    "list modules", "list modules -x", "list -H modules -o 8",
    "list task_struct.tasks -s task_struct.pid,comm -h init_task", "list -r -H super_blocks",
    "tree -t maple init_mm.mm_mt", "tree -t rbtree vmap_area_root", "tree -t xarray irq_domain_list",
    "vtop init_task", "vtop linux_banner", "vtop 0xffffffff81000000", "foreach vtop", "task", "task -x",
    "task -R pid,comm", "foreach task -R comm", "mod", "mod -t", "dis schedule", "dis -x schedule",
    "dis -r schedule", "dis -l schedule", "dis -u 0x400000", "dis schedule 8",
    "eval 0xff", "eval -b 5*3", "foreach ps", "help ps", "foreach RU bt", "btop init_task", "ptob 4096",
    "ascii", "alias",
)  # fmt: skip
# What reads most of the dump, for files that hold the same kernel in another form.
SHORT = ("sys", "ps", "foreach bt -f", "log -T", "mod", "sym -M", "p runqueues:a", "task", "vtop init_task")

SOURCE = re.compile(r"(?:^|(?<= ))\S+\.[chS]: ?\d+$")
IGNORED = re.compile(
    r"\.|\$|__kstrtab|__kstrtabns_|__crc_|__ksymtab|__kcrctab|__kflagstab|__flags_|kallsyms_|init_per_cpu__|"
    r"__param$|__modver$|__ex_table$|__bug_table$|__init_rodata$|runtime_(?:ptr|shift)_|xen_elfnote_"
)
WORD = re.compile(r"[0-9a-f]{8,16}")
NAMED = re.compile(r"(0x[0-9a-f]+) <([^<>]+)>")
PADDING = re.compile(r"0x[0-9a-f]+ <\S+?>: (?:nop|int3|cs nop|data16|xchg %ax,%ax)")


@dataclass
class Pair:
    """One dump, opened both ways."""

    both: Session
    alone: Session

    def outputs(self, command: str) -> tuple[list[str], list[str]]:
        """The lines of both, without what differs on purpose."""
        texts = (normal(run_kcrash(session, command)) for session in (self.both, self.alone))
        theirs, ours = ([line for text in lines if (line := self._plain(text))] for lines in texts)
        if command.startswith("sym"):
            known = set(ours)
            theirs = [line for line in theirs if line in known or not IGNORED.match(line.split()[-1])]
        if command.startswith("dis"):
            known = set(theirs)
            ours = [line for line in ours if line in known or not PADDING.match(line)]
        if command == "p linux_banner":
            theirs = [line.replace('= "', f'= {self._banner()} "') for line in theirs]
        return theirs, ours

    def _banner(self) -> str:
        return f"{self.both.symbols.address('linux_banner'):#x}"

    def _plain(self, line: str) -> str:
        line = re.sub(r"\$\d+ =", "$ =", SOURCE.sub("", line).strip())
        line = re.sub(r"^([0-9a-f]+ )\([dD]\)", r"\1(d)", line) if self._per_cpu(line) else line
        line = re.sub(r"\[0\];$", "[];", line)
        return "" if line.startswith(("KERNEL: ", "DUMPFILE: ")) else NAMED.sub(self._code_name, line)

    def _per_cpu(self, line: str) -> bool:
        word = line.split(" ", 1)[0]
        if not re.fullmatch("[0-9a-f]{1,8}", word):
            return False
        end = self.both.symbols.find_kernel("__per_cpu_end") or 0
        return int(word, 16) <= min(end, 1 << 32)

    def _code_name(self, match: re.Match[str]) -> str:
        """Names of code stay behind their addresses, those of data do not."""
        find = self.both.symbols.find_kernel
        text = (find("_stext") or 0) <= int(match[1], 16) < (find("_etext") or 0)
        return match[0] if text else match[1]

    def check(self, command: str, label: str) -> None:
        """Fails with a diff unless both print the same."""
        theirs, ours = self.outputs(command)
        if theirs != ours and not self._same_words(theirs, ours):
            pytest.fail(f"{label}: {command}\n{diff(theirs, ours)}", pytrace=False)

    def _same_words(self, theirs: Sequence[str], ours: Sequence[str]) -> bool:
        """True if the words that differ name the same address."""
        pairs = [(a.split(), b.split()) for a, b in zip_longest(theirs, ours, fillvalue="") if a != b]
        return all(
            len(a) == len(b)
            and all(one == other or self._same_place(one, other) for one, other in zip(a, b, strict=True))
            for a, b in pairs
        )

    def _same_place(self, one: str, other: str) -> bool:
        first, second = (
            self._place(session, word) for session, word in ((self.both, one), (self.alone, other))
        )
        return bool(first & second) or IGNORED.match(one) is not None

    def _place(self, session: Session, word: str) -> set[int]:
        if WORD.fullmatch(word):
            return {int(word, 16)}
        name, _plus, offset = word.rpartition("+") if "+" in word else (word, "", "0")
        found = session.symbols.symbols_named(name)
        return (
            {symbol.address + int(offset, 0) for symbol in found}
            if re.fullmatch(r"\d+|0x[0-9a-f]+", offset)
            else set()
        )

    def close(self) -> None:
        self.both.close()
        self.alone.close()


def opened(dumps: lab.Dumps, dump: Path) -> Pair:
    return Pair(kcrash.open(str(dumps.vmlinux), str(dump)), kcrash.open(str(dump)))


CASES = [(kernel, form) for kernel in KERNELS for form in FORMS]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, Pair, lab.Dumps, str]]:
    kernel, form = request.param
    dumps = lab_dumps(kernel, form)
    pair = opened(dumps, dumps.forms[form])
    yield f"{kernel} {form}", pair, dumps, form
    pair.close()


def test_every_command_prints_the_same(case: tuple[str, Pair, lab.Dumps, str]) -> None:
    label, pair, _dumps, form = case
    for command in WHOLE if form == FORMS[0] or "KCRASH_LAB_FORMS" in os.environ else SHORT:
        pair.check(command, label)


def test_the_core_is_the_same(case: tuple[str, Pair, lab.Dumps, str], tmp_path: Path) -> None:
    label, pair, dumps, _form = case
    pid = dumps.truth.threads[0].pid
    cores = []
    for name, session in (("both", pair.both), ("alone", pair.alone)):
        with_gcore(session)
        output = run_kcrash(session, f"gcore -o {tmp_path / name} {pid}")
        assert (tmp_path / name).exists(), f"{label}: {output}"
        cores.append((tmp_path / name).read_bytes())
    assert cores[0] == cores[1] and len(cores[0]) > 100_000


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_without_the_note(kernel: str, form: str, tmp_path: Path) -> None:
    """VMCOREINFO gone from the file: found in memory, all the same."""
    dumps = lab_dumps(kernel, form)
    whole = kcrash.open(str(dumps.forms[form]))
    stripped = opened(dumps, without_vmcoreinfo(dumps.forms[form], tmp_path / "dump"))
    try:
        for session in (stripped.both, stripped.alone):
            for command in SHORT:
                Pair(whole, session).check(command, f"{kernel} {form} without VMCOREINFO")
    finally:
        whole.close()
        stripped.close()


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_any_vmcoreinfo(kernel: str, tmp_path: Path) -> None:
    """Neither in the file nor in memory: kallsyms, found by its form, tells where the page tables are."""
    dumps = lab_dumps(kernel, "elf")
    whole = kcrash.open(str(dumps.forms["elf"]))
    dump = without_vmcoreinfo(dumps.forms["elf"], tmp_path / "dump")
    assert without_copies(dump) > 1
    stripped = opened(dumps, dump)
    try:
        assert stripped.both.vmcoreinfo is None and stripped.alone.vmcoreinfo is None
        for session in (stripped.both, stripped.alone):
            for command in SHORT:
                Pair(whole, session).check(command, f"{kernel} without any VMCOREINFO")
    finally:
        whole.close()
        stripped.close()
