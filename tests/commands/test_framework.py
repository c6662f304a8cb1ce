"""Registry, running of lines, failures, JSON, with commands declared here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kcrash.commands import REGISTRY, Registry
from kcrash.commands.base import (
    Arguments,
    Column,
    Context,
    Fault,
    Flag,
    Item,
    Raw,
    Record,
    Rest,
    Table,
    Text,
    command,
)
from kcrash.errors import CommandError, FaultReason, MemoryFault
from tests.commands.helpers import run, shell_with

SMALL = Registry()


def small(name: str, **more: object) -> object:
    return command(name, summary=name, registry=SMALL, needs_session=False, **more)  # type: ignore[arg-type]


@command(
    "rows",
    summary="rows",
    arguments=[Flag("-b", "break in the middle"), Rest("word")],
    registry=SMALL,
    needs_session=False,
    aliases=("lines",),
)
def rows(context: Context, args: Arguments) -> Iterator[Item]:
    def each() -> Iterator[tuple[int, str] | Fault]:
        for number, word in enumerate(args.word):
            yield (number, word) if word != "bad" else Fault("cannot read", {"number": number})
            if args.b:
                raise MemoryFault("kernel", 0xF00, FaultReason.EXCLUDED)

    yield Table((Column("number", "N", 3, ">"), Column("word", "WORD")), each(), kind="word")


@command("twice", summary="twice", arguments=[Raw("line")], registry=SMALL, needs_session=False)
def twice(context: Context, args: Arguments) -> Iterator[Item]:
    yield Text("first", layout=True)
    context.run(args.line)
    yield Text("second", layout=True)
    yield from context.call("rows", "called")


@command("bug", summary="bug", registry=SMALL, needs_session=False)
def bug(context: Context, args: Arguments) -> None:
    raise KeyError("oops")


@command("stop", summary="Ctrl-C", registry=SMALL, needs_session=False)
def stop(context: Context, args: Arguments) -> Iterator[Item]:
    yield Text("before")
    raise KeyboardInterrupt


@command("needy", summary="needs a dump", registry=SMALL)
def needy(context: Context, args: Arguments) -> None:
    raise AssertionError


def fails(line: str, capsys: pytest.CaptureFixture[str], status: int = 1) -> tuple[str, str]:
    shell, kept = shell_with(SMALL)
    assert shell.run(line) == status
    assert shell.worst == status
    return kept.text, capsys.readouterr().err


def test_rows_in_text_and_json() -> None:
    assert run("rows a b", registry=SMALL) == "  N WORD\n  0 a\n  1 b\n"
    lines = run("rows a --json", registry=SMALL).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"command": "rows", "kind": "word", "number": 0, "word": "a"}
    ]


def test_json_setting_and_alias_of_the_declaration() -> None:
    shell, kept = shell_with(SMALL)
    shell.settings.json = True
    shell.run("lines a")
    assert json.loads(kept.text)["command"] == "rows"


def test_a_bad_row_does_not_end_the_listing(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = fails("rows a bad c", capsys)
    assert out == "  N WORD\n  0 a\nrows: cannot read\n  2 c\n"
    assert err == ""
    out, err = fails("rows a bad c --json", capsys)
    assert json.loads(out.splitlines()[1]) == {
        "command": "rows",
        "kind": "fault",
        "error": "cannot read",
        "number": 1,
    }


def test_what_was_printed_before_an_error_stays(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = fails("rows -b a b", capsys)
    assert out == "  N WORD\n  0 a\n"
    assert err == "rows: kernel address f00: excluded from dump\n"


def test_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    shell, kept = shell_with(SMALL)
    shell.settings.json = True
    assert shell.run("rows -b a") == 1
    last = json.loads(kept.text.splitlines()[-1])
    assert last == {"command": "rows", "kind": "fault", "error": "kernel address f00: excluded from dump"}
    assert shell.run("nosuch") == 1
    assert json.loads(kept.text.splitlines()[-1])["error"] == "command not found: nosuch"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = fails("rows -Z", capsys)
    assert err == (
        "rows: invalid option -- 'Z'\nUsage:\n  rows [-b] [word] ...\nEnter \"help rows\" for details.\n"
    )


def test_bug_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KCRASH_TRACEBACK", raising=False)
    _, err = fails("bug", capsys)
    assert err.startswith("bug: internal error: KeyError: 'oops' (") and err.count("\n") == 1
    monkeypatch.setenv("KCRASH_TRACEBACK", "1")
    _, err = fails("bug", capsys)
    assert "Traceback" in err


def test_interrupt_keeps_output(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = fails("stop", capsys, 130)
    assert out == "before\n"


def test_interrupt_ends_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    shell, kept = shell_with(SMALL)
    assert shell.run_lines(["stop", "rows a"]) == 130
    assert "WORD" not in kept.text


def test_unknown_and_needy(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails("nosuch 1", capsys)[1] == "kcrash: command not found: nosuch\n"
    assert fails("needy", capsys)[1] == "needy: no dump is open\n"


def test_nested_commands_print_in_order() -> None:
    text = run("twice rows x", registry=SMALL)
    assert text == "first\n  N WORD\n  0 x\nsecond\n  N WORD\n  0 called\n"


def test_endless_nesting_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    shell, _ = shell_with(SMALL)
    shell.context.aliases.set("again", "twice again2")
    shell.context.aliases.set("again2", "twice again")
    shell.run("again")
    assert "nested too deeply" in capsys.readouterr().err
    assert shell.worst == 1


def test_aliases_do_not_loop() -> None:
    shell, kept = shell_with(SMALL)
    shell.context.aliases.set("rows", "rows one")
    assert shell.run("rows two") == 0
    assert kept.text.endswith("0 one\n  1 two\n")
    kept.text = ""
    assert shell.run("\\rows two") == 0
    assert "one" not in kept.text


def test_redirection(tmp_path: Path) -> None:
    file = tmp_path / "o u t"
    run(f'rows a > "{file}"', f'rows b >> "{file}"', registry=SMALL)
    assert file.read_text() == "  N WORD\n  0 a\n  N WORD\n  0 b\n"


def test_redirection_that_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fails("rows a > /dev/full", capsys)[1].endswith("/dev/full: No space left on device\n")
    assert fails(f"rows a > {tmp_path}", capsys)[1] == f"kcrash: {tmp_path}: Is a directory\n"


def test_pipe(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    run("rows a b | sed -n 2p", registry=SMALL)
    assert capfd.readouterr().out == "  0 a\n"
    shell, _ = shell_with(SMALL)
    assert shell.run("rows a | no-such-program") == 1
    assert shell.run("rows a | grep nothing") == 0
    assert shell.run("rows -b a | cat") == 1


def test_reader_that_leaves_stops_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    endless = Registry()

    @command("count", summary="count", registry=endless, needs_session=False)
    def count(context: Context, args: Arguments) -> Iterator[Item]:
        number = 0
        while True:
            number += 1
            yield Record("n", {}, str(number))

    assert run("count | head -2", registry=endless) == ""
    assert capfd.readouterr().out == "1\n2\n"


def test_shell_escape(capfd: pytest.CaptureFixture[str]) -> None:
    run("!echo a; echo b", "echo c | tr c d", registry=SMALL)
    assert capfd.readouterr().out == "a\nb\nd\n"


def test_input_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script").write_text("rows a\n# no\n\nrows b\n")
    (tmp_path / "args").write_text("1 2\n\n3\n")
    assert run(f"< {tmp_path}/script", registry=SMALL) == "  N WORD\n  0 a\n  N WORD\n  0 b\n"
    assert run(f"rows x < {tmp_path}/args", registry=SMALL) == (
        "  N WORD\n  0 x\n  1 1\n  2 2\n  N WORD\n  0 x\n  1 3\n"
    )
    assert fails("< /no/file", capsys)[1] == "kcrash: /no/file: No such file or directory\n"


def test_redirected_input_file(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(f"rows a\nrows b > {tmp_path}/b\n")
    run(f"< {tmp_path}/script > {tmp_path}/a", registry=SMALL)
    assert (tmp_path / "a").read_text() == "  N WORD\n  0 a\n"
    assert (tmp_path / "b").read_text() == "  N WORD\n  0 b\n"


def test_minimal(capsys: pytest.CaptureFixture[str]) -> None:
    shell, _ = shell_with(SMALL)
    shell.context.minimal = True
    assert shell.run("rows") == 1
    assert "not available in minimal mode" in capsys.readouterr().err


def test_error_variable(tmp_path: Path) -> None:
    shell, kept = shell_with(SMALL)
    shell.settings.assign("error", str(tmp_path / "errors"))
    shell.run("nosuch")
    assert (tmp_path / "errors").read_text() == "kcrash: command not found: nosuch\n"
    shell.settings.assign("error", "redirect")
    shell.run(f"rows -b a > {tmp_path}/out")
    assert "excluded" not in kept.text


def test_duplicate_names_are_an_error() -> None:
    registry = Registry()
    command("a", summary="", registry=registry)(rows)
    with pytest.raises(CommandError, match="duplicate command 'a'"):
        command("b", summary="", registry=registry, aliases=("a",))(rows)


PLUGIN = """
from kcrash.commands import scanned
from kcrash.commands.base import command, Text

@command("%s", summary="s", needs_session=False, registry=scanned%s)
def run(context, args):
    yield Text("%s")
"""


def test_only_the_file_of_a_command_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "many_commands"
    package.mkdir()
    registry = Registry(package, "many_commands")
    monkeypatch.setattr("kcrash.commands.scanned", registry, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(PLUGIN % ("one", "", "ONE"))
    (package / "other.py").write_text(PLUGIN % ("two", ', aliases=("zwei",), hidden=True', "TWO"))
    (package / "_broken.py").write_text("raise Exception")
    assert run("one", registry=registry) == "ONE\n"
    assert "many_commands.other" not in sys.modules
    assert registry.names() == ["one", "zwei"] and registry.names(hidden=True) == ["one", "two", "zwei"]
    assert run("zwei", registry=registry) == "TWO\n"
    assert "many_commands.other" in sys.modules
    assert [c.name for c in registry.all()] == ["one", "two"]


def test_scan_agrees_with_what_importing_registers() -> None:
    """In a fresh process: an alias or name the scan of the text misses would never be found."""
    code = (
        "from kcrash.commands import REGISTRY as r\n"
        "seen = set(r.index())\n"
        "all = r.all()\n"
        "assert seen == {n for c in all for n in (c.name, *c.aliases)}, seen\n"
        "for c in all: assert c.summary and c.usage() and c.description, c.name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_start_is_cheap() -> None:
    code = (
        "import sys, kcrash.cli\n"
        "bad = {'numpy', 'prompt_toolkit', 'pygments', 'capstone', 'elftools', 'argparse', 'subprocess'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n"
        "mine = [m for m in sys.modules if m.startswith('kcrash.commands.')]\n"
        "assert 'kcrash.commands.help' not in mine and len(mine) < 14, mine\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_every_page_can_be_made() -> None:
    names = {c.name for c in REGISTRY.all() if not c.hidden}
    text = run("help all")
    for name in names:
        assert f"\nNAME\n  {name} - " in text
