"""Suggestion kinds to words, and the list of names that is made in the background."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kcrash.commands._shell import Shell
from kcrash.repl.engine import Suggestion
from kcrash.repl.names import Listing, cache_file
from kcrash.repl.words import Words, files


def matching(suggestion: Suggestion) -> list[str]:
    return list(Words(Shell(None)).matching(suggestion))


def test_commands_aliases_and_variables() -> None:
    assert matching(Suggestion("rep", ("command", "alias", "symbol", "type"))) == ["repeat"]
    assert "dmesg" in matching(Suggestion("dm", ("command", "alias")))
    assert matching(Suggestion("print_", ("variable",))) == ["print_max", "print_array"]
    assert matching(Suggestion("-", words=("-x", "-d", "-x"))) == ["-x", "-d"]
    assert matching(Suggestion("x", ("unheard-of",))) == []


def test_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("")
    (tmp_path / "onedir").mkdir()
    assert files(f"{tmp_path}/one") == [f"{tmp_path}/one.txt", f"{tmp_path}/onedir/"]
    assert files("/no/such/folder/x") == []


def test_names_of_a_file_that_is_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "junk").write_text("junk")
    assert Listing(str(tmp_path / "junk"), "abc").read() == ([], [])
    assert list((tmp_path / "kcrash" / "names").iterdir()) == []


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
def test_names_are_listed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    source = (
        "struct apple { int core; } tree;\ntypedef struct apple fruit;\nfruit *pick(void) { return &tree; }\n"
    )
    (tmp_path / "a.c").write_text(source)
    image = str(tmp_path / "image")
    link = ["-static", "-nostdlib", "-no-pie", "-Wl,-e,pick"]
    subprocess.run(["gcc", "-g", *link, "-o", image, str(tmp_path / "a.c")], check=True)
    symbols, types = Listing(image, "b1d").read()
    assert {"pick", "tree"} <= set(symbols) and {"apple", "fruit"} <= set(types)
    cache = cache_file("b1d")
    assert cache is not None and cache.is_file() and cache.parent.stat().st_mode & 0o777 == 0o700
    cache.write_text("S kept\nT too")
    assert Listing(image, "b1d").read() == (["kept"], ["too"])


def test_cache_file_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file("../../etc/passwd") is None
