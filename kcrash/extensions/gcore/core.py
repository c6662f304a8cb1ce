"""A core, put together: notes, segments, pages, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import CommandError
from kcrash.extensions.gcore.collect import Collector, Ready, grouped, one_ahead
from kcrash.extensions.gcore.elf import Form, Layout, make_layout, note_bytes
from kcrash.extensions.gcore.notes import make_notes
from kcrash.extensions.gcore.regsets import Port, find_port
from kcrash.extensions.gcore.report import Report, SegmentReport, new_report, report_note
from kcrash.extensions.gcore.segments import Segment, make_segments
from kcrash.linux.swap import swap

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process
    from kcrash.extensions.gcore.sink import Sink


@dataclass
class Core:
    """Everything of a core but the pages. ``report_at``: offset of the report's note in the file."""

    process: Process
    port: Port
    segments: list[Segment]
    layout: Layout
    report: Report
    report_at: int
    collector: Collector

    def write(self, sink: Sink, done: Callable[[int], None]) -> None:
        """Write the core; ``done`` is told how many pages have been read. Raises CommandError."""
        sink.write(0, memoryview(self.layout.head))
        known = self.report.missing
        for ready in one_ahead(grouped(self._read())):
            for at, data in ready.writes:
                sink.write(at, memoryview(data).cast("B"))  # type: ignore[arg-type]
            done(ready.pages)
        if self.layout.tail:
            sink.write(self.layout.total - len(self.layout.tail), memoryview(self.layout.tail))
        self.report.problems += swap(self.process.session).take_problems()
        if self.report.missing != known:
            self._rewrite_report(sink)
        sink.finish(self.layout.total)

    def _read(self) -> Iterator[Ready]:
        """All segments' pages; what turns out to be broken is reported as missing."""
        for segment, (_load, offset), report in zip(
            self.segments, self.layout.loads, self.report.segments, strict=True
        ):
            lost: list[tuple[int, str]] = []
            yield from self.collector.read(segment, offset, lost)
            for address, reason in lost:
                report.present -= 1
                report.lose(address, 1, reason, self.report.page_size)

    def _rewrite_report(self, sink: Sink) -> None:
        order = _form(self.process, self.port).order
        size = int.from_bytes(
            self.layout.head[self.report_at + 4 : self.report_at + 8], "little" if order == "<" else "big"
        )
        sink.rewrite(self.report_at, note_bytes(report_note(self.report, size), order))


def _form(process: Process, port: Port) -> Form:
    arch = process.session.arch
    return Form(port.word_bytes, arch.byte_order, port.machine, arch.page_size)


def make_core(process: Process, given_filter: int | None) -> Core:
    """Find out all that a core of the process is to hold; pages are not read yet. Raises KcrashError."""
    port = find_port(process)
    segments, problems = make_segments(process, port, given_filter)
    if not segments:
        raise CommandError(f"process {process.dumper.tgid}: none of its memory mappings can be read")
    notes = make_notes(process, port, segments)
    collector = Collector(process)
    swap(process.session).take_problems()  # those of whoever asked before
    surveys: list[SegmentReport] = [collector.survey(segment) for segment in segments]
    problems += [*notes.problems, *swap(process.session).take_problems()]
    report = new_report(process, port, notes.threads, surveys, problems)
    form = _form(process, port)
    own = note_bytes(report_note(report), form.order)
    data = b"".join(note_bytes(note, form.order) for note in notes.notes) + own
    loads = [segment.load() for segment in segments]
    if form.word_bytes == 4 and sum(load.size for load in loads) + len(data) >= 1 << 31:
        raise CommandError(f"process {process.dumper.tgid}: too large for an ELF32 core")
    layout = make_layout(form, data, loads)
    return Core(process, port, segments, layout, report, layout.notes + len(data) - len(own), collector)
