"""The progress line: what it says, and that only a terminal sees it."""

from __future__ import annotations

import sys

import pytest

from kcrash.output.progress import Progress


def test_share_rate_and_time_left() -> None:
    bar = Progress("core of 7", 1024, 4096)
    assert bar.text(1.0) == "core of 7: 0%"
    bar.advance(256)
    assert bar.text(2.0) == "core of 7: 25%, 0.5 MiB/s, 0:06 left"
    bar.advance(768)
    assert bar.text(125.0) == "core of 7: 100%, 0.0 MiB/s, 0:00 left"
    bar.advance(10)  # more than was told
    assert bar.text(10.0).endswith("0:00 left")


def test_long_times() -> None:
    bar = Progress("x", 1000, 1 << 20)
    bar.advance(1)
    assert bar.text(1.0) == "x: 0%, 1.0 MiB/s, 16:39 left"


def test_without_a_total_or_a_unit() -> None:
    bar = Progress("x", None, 1 << 20)
    bar.advance(30)
    assert bar.text(3.0) == "x: 30, 10.0 MiB/s"
    bar = Progress("x", 10)
    bar.advance(5)
    assert bar.text(3.0) == "x: 50%"


@pytest.mark.parametrize("terminal", [True, False])
def test_only_on_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    now = iter([0.0, 0.0, *(0.4 * n for n in range(1, 20))])
    monkeypatch.setattr("kcrash.output.progress.monotonic", lambda: next(now))
    with Progress("x", 4, 1 << 20) as bar:
        for _ in range(4):
            bar.advance()
    error = capsys.readouterr().err
    assert ("x: " in error) == terminal
    assert not terminal or error.endswith("\r\x1b[K")
