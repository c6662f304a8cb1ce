"""Files of real writers (QEMU, makedumpfile): every form must hold the pages of the raw ELF dump.

Skipped where the lab's dumps have not been made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kcrash.dump import open_dump
from kcrash.dump.base import EXCLUDED, NOT_IN_DUMP, PRESENT, Dump
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from tests.dump.libkdumpfile import same_pages as same_as_libkdumpfile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kcrash.dump.base import Pages
    from tests.lab.lab import Dumps

KERNELS = ("6.1", "6.12")


@pytest.fixture(scope="module", params=KERNELS)
def dumps(request: pytest.FixtureRequest) -> Dumps:
    lab = pytest.importorskip("tests.lab.lab")
    if not lab.cached(request.param):
        pytest.skip(f"the lab has no dumps of {request.param}")
    found: Dumps = lab.dumps(request.param)
    return found


def some_pfns(dump: Dump) -> NDArray[np.uint64]:
    """An eighth of all page frames: runs of 32, the first and the last among them."""
    last = max(piece.end for piece in dump.ranges()) - 1 >> 12
    pfns = np.arange(last + 1, dtype=np.uint64)
    wanted: NDArray[np.bool_] = (pfns // 32 % 8 == 0) | (pfns > last - 32)
    return pfns[wanted]


def some_pages(dump: Dump, pfns: NDArray[np.uint64] | None = None) -> Pages:
    return dump.read_pages(some_pfns(dump) if pfns is None else pfns, 4096)


def opened(path: Path, *more: Path) -> Dump:
    return open_dump([path, *more])


def same_pages(dump: Dump, reference: Pages) -> tuple[int, int]:
    """``(present, excluded)`` of the dump; fails if a page differs from the reference's."""
    pfns = some_pfns(dump)
    data, states = some_pages(dump, pfns)
    expected, known = reference
    present = states == PRESENT
    assert not (present & (known != PRESENT)).any()
    assert (data[present] == expected[present]).all()
    assert (dump.page_states(pfns, 4096) == states).all()
    assert ((states == NOT_IN_DUMP) == (known == NOT_IN_DUMP)).all()
    return int(present.sum()), int((states == EXCLUDED).sum())


def test_forms_of_makedumpfile(dumps: Dumps) -> None:
    reference = some_pages(opened(dumps.forms["elf"]))
    assert (reference[1] == PRESENT).sum() > 10000
    pages: dict[str, set[tuple[int, int]]] = {"d1": set(), "d31": set()}
    for form, path in dumps.forms.items():
        if form == "elf" or "qemu" in form or "elf" in form:
            continue
        dump = opened(path)
        pages[form.rpartition("-")[2]].add(same_pages(dump, reference))
        assert parse_vmcoreinfo(dump.info.vmcoreinfo or b"").osrelease == dump.info.utsname.release
        assert dump.info.notes == opened(dumps.forms["elf"]).info.notes
        assert dump.info.dump_level == int(form.rpartition("-d")[2])
        dump.close()
    assert [len(found) for found in pages.values()] == [1, 1]  # all forms of one level have the same pages


def test_elf_of_makedumpfile(dumps: Dumps) -> None:
    """Pages that it left out read as zeros; which they were, the kdump form of the same level tells."""
    elf, kdump = opened(dumps.forms["makedumpfile-elf-d31"]), opened(dumps.forms["zlib-d31"])
    assert elf.info.details["zero_filled"] > 0
    data, states = some_pages(elf)
    expected, known = some_pages(kdump)
    assert (states[known == PRESENT] == PRESENT).all()
    assert (data[known == PRESENT] == expected[known == PRESENT]).all()


def test_forms_of_qemu(dumps: Dumps) -> None:
    reference = some_pages(opened(dumps.forms["qemu-elf"]))
    for form in ("qemu-zlib", "qemu-zlib-raw"):
        if form in dumps.forms:
            dump = opened(dumps.forms[form])
            same_pages(dump, reference)
            assert [note.name for note in dump.info.notes].count("QEMU") == 2
            told = parse_vmcoreinfo(dump.info.vmcoreinfo or b"")
            assert (dump.info.phys_base, dump.info.utsname.release) == (
                told.numbers["phys_base"],
                told.osrelease,
            )


@pytest.mark.parametrize("options", [("-c", "-d", "31"), ("-l", "-d", "1")])
def test_split(dumps: Dumps, tmp_path: Path, options: tuple[str, ...]) -> None:
    from tests.lab import lab

    parts = [tmp_path / f"part{number}" for number in range(3)]
    argv: list[str | Path] = ["makedumpfile", "--split", *options, dumps.forms["elf"], *parts]
    done = lab.toolbox().run(argv, binds=[tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr
    whole = opened(dumps.forms["zlib-d31" if "31" in options else "lzo-d1"])
    data, states = some_pages(whole)
    dump = opened(parts[1], parts[2], parts[0])
    assert same_pages(dump, (data, states)) == (
        int((states == PRESENT).sum()),
        int((states == EXCLUDED).sum()),
    )
    pfns = some_pfns(dump)
    for row in np.flatnonzero(states == PRESENT)[::97].tolist():
        assert dump.read(int(pfns[row]) * 4096, 4096) == data[row].tobytes()


@pytest.mark.parametrize("form", ["zlib-d31", "lzo-d1", "zstd-d31"])
def test_against_libkdumpfile(dumps: Dumps, form: str) -> None:
    if form not in dumps.forms:
        pytest.skip("no such form")
    dump = opened(dumps.forms[form])
    assert same_as_libkdumpfile(dump, [dumps.forms[form]], some_pfns(dump)) > 1000


def test_first_page_needs_no_numpy(dumps: Dumps) -> None:
    code = (
        "import sys\nfrom kcrash.dump import open_dump\nd = open_dump(sys.argv[1:])\n"
        "[d.try_read(a, 4096) for a in range(0x100000, 0x200000, 4096)]\nd.ranges()\n"
        "sys.exit('numpy' in sys.modules)"
    )
    for form in ("elf", "zlib-d31", "flat-zlib-d31"):
        argv = [sys.executable, "-c", code, str(dumps.forms[form])]
        assert subprocess.run(argv, cwd=Path(__file__).parents[2], check=False).returncode == 0
