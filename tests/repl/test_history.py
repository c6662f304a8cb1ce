"""History: its file is private, its lines come back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kcrash.errors import CommandError
from kcrash.repl.history import LIMIT, History, unique


def test_file_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "history"
    first = History(path)
    for line in ("ps", "bt", "bt", "ps"):
        first.add(line)
    assert path.read_text() == "ps\nbt\nps\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert History(path).before == ["bt", "ps"]


def test_open_file_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("ps\n")
    path.chmod(0o666)
    assert History(path).before == ["ps"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "history").symlink_to(target)
    history = History(tmp_path / "history")
    history.add("ps")
    assert target.read_text() == "x" and history.before == []


def test_long_files_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f"rd {n}\n" for n in range(2 * LIMIT + 10)))
    assert len(History(path).before) == LIMIT
    assert len(path.read_text().splitlines()) == LIMIT
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    History(tmp_path / "history").add("ps")


@pytest.mark.parametrize(
    ("line", "means"),
    [("!!", "rd 1"), ("r", "rd 1"), ("!1", "ps -k"), ("r 2", "bt"), ("r2", "bt"), ("r ps", "ps -k"),
     ("rd", None), ("r1x", None), ("!ls", None), ("runq", None)],
)  # fmt: skip
def test_expansion(line: str, means: str | None) -> None:
    history = History(None)
    for each in ("ps -k", "bt", "rd 1"):
        history.add(each)
    assert history.expand(line) == means


@pytest.mark.parametrize("line", ["!9", "r 0", "r nothing"])
def test_no_such_line(line: str) -> None:
    history = History(None)
    history.add("ps")
    with pytest.raises(CommandError):
        history.expand(line)


def test_listing_and_unique() -> None:
    history = History(None)
    for line in ("a", "b"):
        history.add(line)
    assert history.listing() == "[1] a\n[2] b"
    assert unique(["a", "b", "a"]) == ["b", "a"]
