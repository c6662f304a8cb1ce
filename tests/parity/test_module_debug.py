"""``mod -s``, ``-S``, ``-d``, ``-g``: what they make known of modules, against crash and drgn.

crash wants code and debug information of a module in one file; Debian ships two. eu-unstrip joins them.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kcrash
from kcrash.linux.module_debug import module_build_id, section_addresses
from kcrash.linux.modules import modules
from kcrash.session import Session
from kcrash.symbols.elffile import ElfFile
from kcrash.symbols.table import object_symbols
from kcrash.types.dwarf import DwarfSource
from kcrash.types.model import CompoundType
from tests.lab import lab
from tests.parity import drgn_debug
from tests.parity.conftest import KERNELS, MARK, diff, lab_dumps, normal, run_kcrash
from tests.parity.test_log_mod_sym import labels, with_letters

pytestmark = pytest.mark.lab
FORM = "zlib-d1"
COMMANDS = (
    "p zram_major",
    "p zram_devops",
    "p zram_index_mutex",
    "whatis zram_devops",
    "whatis zram_add",
    "whatis struct zram",
    "struct zram",
    "struct -o zram",
    "struct zram.disksize",
    "sym zram_open",
    "sym zram_index_mutex",
    "sym -m zram",
    "dis -l zram_open",
    "dis -l zram_slot_free_notify",
    "dis -l zram_add",
)
SYMBOL_OF_CRASH = re.compile(r"\.LC\d+|__param$|zram_exit$|cleanup_module$")


@pytest.fixture(scope="module", params=KERNELS)
def dumps(request: pytest.FixtureRequest) -> lab.Dumps:
    return lab_dumps(request.param, FORM)


@pytest.fixture
def session(dumps: lab.Dumps) -> Iterator[Session]:
    made = kcrash.open(str(dumps.vmlinux), str(dumps.forms[FORM]))
    yield made
    made.close()


@pytest.fixture(scope="module")
def joined(dumps: lab.Dumps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """zram.ko as its build made it: code and debug information."""
    if not shutil.which("eu-unstrip"):
        pytest.skip(
            "SKIPPED FOR LACK OF A TOOL: eu-unstrip is not installed, crash gets no module's debuginfo"
        )
    path = tmp_path_factory.mktemp("joined") / "zram.ko"
    shipped = path.with_name("stripped.ko")
    code = dumps.kernel.module("zram")
    assert code is not None
    shipped.write_bytes(code)
    debug = next(dumps.debug_modules.rglob("zram.ko"))
    subprocess.run(["eu-unstrip", shipped, debug, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def theirs(dumps: lab.Dumps, joined: Path) -> dict[str, str]:
    """crash's outputs with the module's debuginfo, by command."""
    lines = [f"mod -s zram {joined}"]
    for number, command in enumerate((*COMMANDS, "mod -d zram", f"mod -s zram {joined} -g", "sym -m zram")):
        lines += [f"eval {MARK + number}", command]
    script = "".join(f"{line}\n" for line in (*lines, "quit"))
    argv: list[str | Path] = ["crash", "-s", dumps.vmlinux, dumps.forms[FORM]]
    output = lab.toolbox().run(argv, input=script, binds=[joined.parent]).stdout
    pieces = re.split(r"hexadecimal: .*\n *decimal: 7777\d{6} *\n *octal: .*\n *binary: .*\n", output)
    if len(pieces) == 1:
        pytest.skip(f"crash fails on {FORM} of {dumps.kernel.version}: {output[-300:]}")
    assert len(pieces) == len(COMMANDS) + 4, output[-300:]
    return dict(zip(("mod -s", *COMMANDS, "mod -d", "mod -s -g", "sym -m -g"), pieces, strict=True))


def test_same_as_crash(session: Session, joined: Path, theirs: dict[str, str]) -> None:
    assert normal(run_kcrash(session, f"mod -s zram {joined}")) == normal(theirs["mod -s"])
    wrong = []
    for command in COMMANDS:
        expected, found = comparable(command, theirs[command], run_kcrash(session, command))
        assert expected, command
        if expected != found:
            wrong.append(f"{command}\n{diff(expected, found)}")
    assert not wrong, "\n".join(wrong)


def comparable(command: str, theirs: str, ours: str) -> tuple[list[str], list[str]]:
    if command.startswith("dis"):
        return labels(theirs), labels(ours)
    expected, found = normal(theirs), normal(ours)
    if command.startswith("sym"):
        return listed(expected, found)
    return [re.sub(r"\$\d+", "$", line) for line in expected], [re.sub(r"\$\d+", "$", line) for line in found]


def listed(expected: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """Without labels that only one of them lists, and in an order that does not depend on equal addresses."""
    left, right = (
        sorted(line for line in lines if not SYMBOL_OF_CRASH.search(line)) for lines in (expected, found)
    )
    return with_letters(left, right), right


def test_sections_are_marked(session: Session, joined: Path, theirs: dict[str, str]) -> None:
    run_kcrash(session, f"mod -g -s zram {joined}")
    marks = [line for line in normal(run_kcrash(session, "sym -m zram")) if "section" in line]
    wanted = [line for line in normal(theirs["sym -m -g"]) if "section" in line]
    # crash counts its own label of __param as a symbol there, and loses .text where it starts the module.
    apart = re.compile(r"\[(__param|\.text)\]: section start|\[__param\]: section end")
    marks, wanted = ([line for line in lines if not apart.search(line)] for lines in (marks, wanted))
    assert len(marks) > 10 and marks == wanted


def test_all_modules_are_found_by_their_build_ids(session: Session, dumps: lab.Dumps) -> None:
    shown = normal(run_kcrash(session, "mod -S"))[1:]
    files = {
        path.name.partition(".")[0].replace("-", "_"): path for path in dumps.debug_modules.rglob("*.ko")
    }
    assert len(shown) == len(modules(session)) >= 7
    for module, line in zip(modules(session), shown, strict=True):
        assert line.endswith(str(files[module.name])), line
        assert module_build_id(session, module) == ElfFile(files[module.name]).build_id
    run_kcrash(session, "mod -D")
    assert not session.module_debug and "(not loaded)" in run_kcrash(session, "mod")
    assert "type is not known" in run_kcrash(session, "p zram_major")


def test_a_module_of_another_build_is_refused(session: Session, dumps: lab.Dumps) -> None:
    other = next(dumps.debug_modules.rglob("virtio_blk.ko"))
    shown = run_kcrash(session, f"mod -s zram {other}")
    zram = next(module for module in modules(session) if module.name == "zram")
    assert str(module_build_id(session, zram)) in shown and str(ElfFile(other).build_id) in shown
    assert shown.count("\n") == 1 and not session.module_debug
    session.options.force = True
    assert str(other) in run_kcrash(session, f"mod -s zram {other}")


def test_a_file_without_debug_information_is_refused(
    session: Session, dumps: lab.Dumps, tmp_path: Path
) -> None:
    code = dumps.kernel.module("zram")
    assert code is not None
    (tmp_path / "zram.ko").write_bytes(code)
    assert "no debug information" in run_kcrash(session, f"mod -s zram {tmp_path / 'zram.ko'}")


def test_the_folder_of_mod_is_searched(dumps: lab.Dumps, tmp_path: Path) -> None:
    """``--mod``: the vmlinux lies in no tree of a distribution here."""
    (tmp_path / "boot").mkdir()
    link = tmp_path / "boot" / "kernel"
    shutil.copy(dumps.vmlinux, link)
    session = kcrash.open(str(link), str(dumps.forms[FORM]))
    assert "cannot load" in run_kcrash(session, "mod -s zram")
    session.options.module_dirs = [str(dumps.debug_modules)]
    assert "zram.ko" in run_kcrash(session, "mod -s zram")
    session.close()


def test_types_come_from_the_btf_of_modules(session: Session, dumps: lab.Dumps) -> None:
    """Without any debuginfo of the module: the same as with it, in listings and in expressions.

    Modules have BTF since Linux commit 5f9ae91f7c0d ("kbuild: Build kernel module BTFs if BTF is enabled and
    pahole supports it") in v5.11.
    """
    if b".BTF" not in (dumps.kernel.module("zram") or b""):
        pytest.skip(f"modules of kernel {dumps.kernel.version} have no BTF")
    lines = ("struct zram.disksize", "whatis struct zcomp", "p sizeof(struct zram)",
             "p &((struct zram *)0)->disksize")  # fmt: skip
    without = [re.sub(r"\$\d+", "$", run_kcrash(session, line)) for line in lines]
    run_kcrash(session, "mod -s zram")
    assert session.module_debug
    assert [re.sub(r"\$\d+", "$", run_kcrash(session, line)) for line in lines] == without
    assert not any("mod:" in text or "p:" in text for text in without)


def drgn_answers(dumps: lab.Dumps, questions: dict[str, Any]) -> dict[str, Any]:
    """What drgn says (drgn_debug.py)."""
    files = [dumps.vmlinux, dumps.forms[FORM], dumps.debug_modules]
    done = subprocess.run(
        [lab.drgn(), drgn_debug.__file__, *files],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_lines_and_types_are_those_of_drgn(session: Session, dumps: lab.Dumps) -> None:
    run_kcrash(session, "mod -S")
    chooser, addresses = random.Random(11), []
    for debug in session.module_debug.values():
        spans = [(low, high) for name, low, high in debug.section_ranges() if name == ".text"]
        addresses += [chooser.randrange(low, high) for low, high in spans for _ in range(100)]
    dwarf = session.module_debug["zram"].dwarf
    others = [source for source in session.module_debug.values() if source.dwarf is not dwarf]
    complete = [
        name
        for name in sorted(dwarf.names("struct"))
        if struct_of(dwarf, name).complete and not any(other.dwarf.find("struct", name) for other in others)
    ]  # a name may stand for another struct in another module
    chosen = ["zram", "zcomp", *chooser.sample(complete, min(len(complete), 40))]
    answers = drgn_answers(dumps, {"addresses": addresses, "structs": chosen})
    compared = 0
    for address, places in zip(addresses, answers["addresses"], strict=True):
        known_at = session.dwarf_at(address)
        assert known_at is not None
        frames = known_at[0].inline_frames(address)
        if not frames:  # between two functions: drgn knows the symbol before, and a line
            assert len(places) <= 1, hex(address)
            continue
        compared += 1
        ours = [(frame.function, frame.line) for frame in frames]
        assert ours == [(name, line) for name, _file, line in places], hex(address)
        for frame, (_name, file, _line) in zip(frames, places, strict=True):
            assert os.path.normpath(frame.file).endswith(os.path.normpath(file)), (hex(address), frame, file)
    assert compared > 0.8 * len(addresses) > 500
    for name, (size, members) in answers["structs"].items():
        found = struct_of(dwarf, name)
        assert found.size == size, name
        assert {member.name: member.bit_offset for member in found.members if member.name} == members, name


def struct_of(dwarf: DwarfSource, name: str) -> CompoundType:
    found = dwarf.find("struct", name)
    assert isinstance(found, CompoundType)
    return found


def test_sections_are_where_symbols_say(session: Session, dumps: lab.Dumps) -> None:
    """Section addresses, proved by the module's own kallsyms: a symbol is at section + value."""
    for module in modules(session):
        path = next(p for p in dumps.debug_modules.rglob("*.ko") if p.stem.replace("-", "_") == module.name)
        table = session.symbols.module_table(module.name)
        assert table is not None
        listed_ = {(symbol.name, symbol.address) for symbol in table.all()}
        there = [
            s
            for s in object_symbols(ElfFile(path), section_addresses(session, module))
            if module.covers(s.address)
        ]
        assert there and all((s.name, s.address) in listed_ for s in there), module.name
