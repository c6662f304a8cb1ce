"""What the tests of kcrash.dump share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kcrash.dump import open_dump
from kcrash.dump.base import PRESENT, Dump
from kcrash.errors import MemoryFault


def opened(folder: Path, *contents: bytes) -> Dump:
    """The dump in files of these contents."""
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"vmcore{number}"
        path.write_bytes(content)
        paths.append(path)
    return open_dump(paths)


def check_bulk(dump: Dump, pfns: list[int], page_size: int) -> None:
    """read_pages() and page_states() must say what read() does, page by page."""
    array = np.array(pfns, dtype=np.uint64)
    data, states = dump.read_pages(array, page_size)
    assert data.shape == (len(pfns), page_size)
    assert states.shape == (len(pfns),)
    without = dump.page_states(array, page_size)
    for row, pfn in enumerate(pfns):
        try:
            expected = dump.read(pfn * page_size, page_size)
        except MemoryFault as fault:
            assert states[row] != PRESENT, (pfn, fault)
            assert not data[row].any()
            assert without[row] == states[row] or fault.reason.name == "CORRUPT"
            continue
        assert states[row] == without[row] == PRESENT, pfn
        assert data[row].tobytes() == expected, pfn
