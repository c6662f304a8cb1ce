"""Dumps that lie: bytes of kernel memory changed at random while a core is made of them."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import kcrash
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.core import make_core
from kcrash.extensions.gcore.process import open_process
from kcrash.extensions.gcore.sink import open_sink
from kcrash.linux.tasks import task_table
from tests.extensions.gcore.conftest import Case
from tests.extensions.gcore.corefile import CoreFile


class Liar:
    """Reads, and changes some of what it read: single bytes, whole words, page-table entries."""

    def __init__(self, read: object, seed: int) -> None:
        self.real = read
        self.random = random.Random(seed)
        self.rate = self.random.choice([0.0005, 0.003, 0.02])

    def read(self, address: int, size: int) -> bytes:
        data: bytes = self.real(address, size)  # type: ignore[operator]
        if not size or self.random.random() >= min(self.rate * max(1, size / 8), 0.9):
            return data
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 3])):
            at, lie = self.random.randrange(size), self._lie()
            changed[at : at + len(lie)] = lie[: size - at]
        return bytes(changed)

    def _lie(self) -> bytes:
        draw = self.random
        entry = draw.randrange(1 << 34) & ~0xFFF | 0x67
        return draw.choice(
            [b"\xff", b"\0", draw.randbytes(1), draw.randbytes(8), entry.to_bytes(8, "little")]
        )


@pytest.mark.parametrize("seed", range(12))
def test_a_core_or_a_refusal(one: Case, tmp_path: Path, seed: int) -> None:
    session = kcrash.open(str(one.dumps.vmlinux), str(one.dumps.forms[one.form]))
    try:
        task = task_table(session).by_pid[one.dumps.truth.worker][0]
        session.physical.read = Liar(session.dump.read, seed).read  # type: ignore[method-assign]
        session.memory._tables.clear()
        started = time.monotonic()
        _try(tmp_path / "x", lambda: make_core(open_process(session, task), 255))
        assert time.monotonic() - started < 60
    finally:
        session.close()


def _try(path: Path, make: object) -> None:
    try:
        core = make()  # type: ignore[operator]
        if core.layout.total >= 1 << 33:
            return
        with open_sink(path) as sink:
            core.write(sink, lambda pages: None)
    except KcrashError as error:
        assert "\n" not in str(error)
        assert not path.exists()
        return
    found = CoreFile(path)
    assert found.type == 4
    assert len(found.loads) == len(core.segments)
    assert found.report["pid"] == core.report.pid
