"""What a core holds and what it lacks: as text, as JSON, and as a note in the core itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kcrash.extensions.gcore.notes import NOTE_NAME, NOTE_TYPE, ThreadReport
from kcrash.extensions.gcore.regsets.base import Note

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process
    from kcrash.extensions.gcore.regsets.base import Port
    from kcrash.extensions.gcore.segments import Segment

VERSION = 1
MAX_RANGES = 4096  # stretches of missing pages that the note lists


@dataclass
class SegmentReport:
    """Pages of one segment: ``present``, ``zero`` (known to be), and ``missing`` by reason.

    ``undumped``: pages without a struct page, which the kernel never dumps (vvar, devices).
    ``ranges``: [address, pages, reason] of what is missing, neighbours joined.
    """

    segment: Segment
    present: int = 0
    zero: int = 0
    undumped: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[int, int, str]] = field(default_factory=list)

    def lose(self, address: int, pages: int, reason: str, page_size: int) -> None:
        """Note that pages are missing."""
        self.missing[reason] = self.missing.get(reason, 0) + pages
        if self.ranges:
            start, count, last = self.ranges[-1]
            if last == reason and start + count * page_size == address:
                self.ranges[-1] = (start, count + pages, reason)
                return
        if len(self.ranges) <= MAX_RANGES:  # one more than is ever listed tells that there were more
            self.ranges.append((address, pages, reason))

    def data(self) -> dict[str, Any]:
        """For JSON."""
        vma = self.segment.vma
        return {
            "start": f"{vma.start:#x}",
            "end": f"{vma.end:#x}",
            "flags": vma.permissions,
            "file": _text(self.segment.name),
            "bytes": self.segment.size,
            "present": self.present,
            "zero": self.zero,
            "undumped": self.undumped,
            "missing": self.missing,
        }


@dataclass
class Report:
    """Of a whole core."""

    pid: int
    comm: bytes
    port: str
    page_size: int
    threads: list[ThreadReport]
    segments: list[SegmentReport]
    problems: list[str]
    gone: list[int] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, int]:
        """Pages by reason."""
        return _sums(segment.missing for segment in self.segments)

    @property
    def present(self) -> int:
        """Pages that the dump has."""
        return sum(segment.present for segment in self.segments)

    @property
    def zero(self) -> int:
        """Pages that are known to be zeros and are holes in the file."""
        return sum(segment.zero for segment in self.segments)

    def data(self, ranges: bool = False) -> dict[str, Any]:
        """For JSON; ``ranges``: with the stretches of missing pages."""
        found: dict[str, Any] = {
            "pid": self.pid,
            "comm": _text(self.comm),
            "registers": self.port,
            "page_size": self.page_size,
            "present": self.present,
            "zero": self.zero,
            "missing": self.missing,
            "threads": [_thread_data(thread) for thread in self.threads],
            "exiting": self.gone,
            "problems": self.problems,
        }
        return found | (self._ranges() if ranges else {})

    def _ranges(self) -> dict[str, Any]:
        every = [r for segment in self.segments for r in segment.ranges]
        listed = [[f"{start:#x}", pages, reason] for start, pages, reason in every[:MAX_RANGES]]
        return {"ranges": listed, "ranges_cut": len(every) > MAX_RANGES}


def _thread_data(thread: ThreadReport) -> dict[str, Any]:
    return {
        "pid": thread.pid,
        "comm": _text(thread.comm),
        "origin": thread.origin,
        "unavailable": thread.unavailable,
    }


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode("utf-8", "backslashreplace")


def _sums(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for reason, pages in part.items():
            total[reason] = total.get(reason, 0) + pages
    return total


def new_report(
    process: Process,
    port: Port,
    threads: list[ThreadReport],
    segments: list[SegmentReport],
    problems: list[str],
) -> Report:
    """A report; see Report."""
    first = process.dumper
    gone = [task.pid for task in process.gone]
    label = f"{port.arch} ({port.kernels})"
    page_size = process.session.arch.page_size
    return Report(first.tgid, first.comm, label, page_size, threads, segments, problems, gone)


def report_note(report: Report, size: int | None = None) -> Note:
    """The report as a note: name KCRASH, type 0x6b637268, JSON in UTF-8, blanks at the end.

    ``{"kcrash": 1, "pid": ..., "present": pages, "zero": pages, "missing": {reason: pages},
    "threads": [{"pid", "origin", "unavailable": {set: why}}], "ranges": [["0x...", pages, reason]]}``.
    Debuggers pass over notes of names that they do not know. ``size``: pad to so many bytes; a report
    that has become longer loses its ranges.
    """
    data = _json({"kcrash": VERSION, **report.data(ranges=True)})
    if size is None:
        size = len(data) + 256  # room for what turns out to be missing while pages are read
    if len(data) > size:
        data = _json({"kcrash": VERSION, **report.data(), "ranges_cut": True})[:size]
    return Note(NOTE_NAME, NOTE_TYPE, data.ljust((size + 3) & ~3))


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode()


def missing_text(missing: Mapping[str, int]) -> str:
    """``12 excluded from dump, 3 swapped out``."""
    return ", ".join(f"{pages} {reason}" for reason, pages in sorted(missing.items()))
