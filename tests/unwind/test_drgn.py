"""Traces of real dumps, frame by frame and register by register as drgn finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import lab
from tests.unwind.support import KERNELS

FORMS = ["elf", "qemu-elf"]


@pytest.mark.parametrize("version", KERNELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefer_orc", [False, True], ids=["cfi", "orc"])
def test_every_frame_of_every_task(version: str, form: str, prefer_orc: bool) -> None:
    pytest.importorskip("drgn")
    from tests.unwind.drgn_oracle import compare

    if not lab.cached(version):
        pytest.skip("the lab has no such dump at hand")
    dumps = lab.dumps(version, names=[form])
    report = compare(dumps.vmlinux, Path(dumps.forms[form]), dumps.debug_modules, prefer_orc)
    assert report.tasks > 50 and report.frames > 200
    assert report.differences == []


@pytest.mark.parametrize("version", KERNELS)
def test_modules_have_both_tables(version: str) -> None:
    pytest.importorskip("drgn")
    from tests.unwind.drgn_oracle import modules_agree

    if not lab.cached(version):
        pytest.skip("the lab has no such dump at hand")
    dumps = lab.dumps(version, names=["elf"])
    same, total = modules_agree(dumps.vmlinux, Path(dumps.forms["elf"]), dumps.debug_modules)
    assert total > 500 and same > total * 0.97
