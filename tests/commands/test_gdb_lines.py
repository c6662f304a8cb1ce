"""Lines of gdb's that crash would have passed on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kcrash.commands import REGISTRY
from kcrash.commands._gdb import translated
from tests.commands.helpers import run, shell_with


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("p/x jiffies", "p /x jiffies"),
        ("print jiffies", "p jiffies"),
        ("output 1 + 2", "p 1 + 2"),
        ("ptype struct list_head", "whatis struct list_head"),
        ("x/2gx &init_task", "rd -64 init_task 2"),
        ("x/4i schedule", "dis schedule 4"),
        ("x/s linux_banner", "rd -a linux_banner"),
        ("x/8xb 0xffff888000000000", "rd -8 0xffff888000000000 8"),
        ("x init_task", "rd -32 init_task 1"),
        ("x/4c linux_banner", "rd -8 linux_banner 4"),
        ("x/2a init_task", "rd -s init_task 2"),
        ("x/2dh init_task", "rd -d -16 init_task 2"),
        ("info line *schedule", "sym schedule"),
        ("gdb print jiffies", "p jiffies"),
        ("gdb ps -k", "ps -k"),
        ("p jiffies", None),
        ("info registers", None),
        ("xyz", None),
        ("x", None),
    ],
)
def test_translated(line: str, ours: str | None) -> None:
    assert translated(line) == ours
    if ours is not None:
        assert ours.split()[0] in REGISTRY


def test_names_that_crash_has_are_no_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    shell, _ = shell_with(REGISTRY)
    assert shell.run("kmem -i") == 1
    assert "kmem: kcrash does not have this command" in capsys.readouterr().err


def test_cd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    assert "inner." in run("cd inner")
    assert Path.cwd() == tmp_path / "inner"
    shell, _ = shell_with(REGISTRY)
    assert shell.run("cd nowhere") == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    run("cd")
    assert os.path.samefile(Path.cwd(), tmp_path)


def test_no_command_is_hidden_by_its_arguments() -> None:
    assert {"bt", "dis", "sys", "ps", "gdb"} & set(REGISTRY.names()) == {"bt", "dis", "sys", "ps"}
    assert [c.name for c in REGISTRY.all() if not c.hidden and c.name not in REGISTRY.names()] == []
