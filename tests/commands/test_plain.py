"""The commands that need no dump, against what crash 9.0.2 printed for the same lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kcrash.commands.eval import evaluate
from kcrash.commands.settings import VARIABLES, Settings, all_settings, is_variable, settings_items
from kcrash.errors import CommandError
from kcrash.output.render import TextRenderer
from tests.commands.helpers import Kept, run, shell_with

# Printed by crash 9.0.2 on an x86_64 dump; _ is a blank at the end of a line.
CRASH = {
    "eval 128m": """\
hexadecimal: 8000000  (128MB)
    decimal: 134217728 _
      octal: 1000000000
     binary: 0000000000000000000000000000000000001000000000000000000000000000
""",
    "eval -b (c01012ac >> 12)": """\
hexadecimal: c0101 _
    decimal: 786689 _
      octal: 3000401
     binary: 0000000000000000000000000000000000000000000011000000000100000001
   bits set: 19 18 8 0_
""",
    "eval -5": """\
hexadecimal: fffffffffffffffb _
    decimal: 18446744073709551611  (-5)
      octal: 1777777777777777777773
     binary: 1111111111111111111111111111111111111111111111111111111111111011
""",
    "eval -b ffffffffffffffff": """\
hexadecimal: ffffffffffffffff _
    decimal: 18446744073709551615  (-1)
      octal: 1777777777777777777777
     binary: 1111111111111111111111111111111111111111111111111111111111111111
   bits set: 63 62 61 60 59 58 57 56 55 54 53 52 51 50 49 48 47 46 45 44 43 42_
             41 40 39 38 37 36 35 34 33 32 31 30 29 28 27 26 25 24 23 22 21 20_
             19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0_
""",
    "eval 3k": """\
hexadecimal: c00  (3KB)
    decimal: 3072 _
      octal: 6000
     binary: 0000000000000000000000000000000000000000000000000000110000000000
""",
    "ascii 62696c2f7273752f": "62696c2f7273752f: /usr/lib\n",
    "ascii 0a41 ff41 12": """\
0000000000000a41: A<LF><NUL><NUL><NUL><NUL><NUL><NUL>
000000000000ff41: A<ff><NUL><NUL><NUL><NUL><NUL><NUL>
0000000000000012: <DC2><NUL><NUL><NUL><NUL><NUL><NUL><NUL>
""",
}


@pytest.mark.parametrize("line", CRASH)
def test_same_as_crash(line: str) -> None:
    assert run(line) == CRASH[line].replace("_\n", " \n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~0", (1 << 64) - 1),
        ("1 / 0x10", 0),
        ("0x10m", 16 << 20),
        ("(1 | 2)", 3),
        ("2 # 4", 16),
        ("sym + 8", 0x1008),
        ("sym", 0x1000),
        ("~sym & ffff", 0xEFFF),
        ("10 % 4", 2),
        ("1k*1k", 1 << 20),
        ("(ff ^ 0f)", 0xF0),
    ],
)
def test_evaluate(text: str, value: int) -> None:
    assert evaluate(text, {"sym": 0x1000}.get) == value


@pytest.mark.parametrize("text", ["1 +", "zz", "5 - 3 - 1", "((1) + 2)", "(1", "", "k", "1 < 2", "1.5"])
def test_evaluate_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        evaluate(text, lambda name: None)


def test_eval_errors_say_the_expression(capsys: pytest.CaptureFixture[str]) -> None:
    shell, _ = shell_with()
    for line in ("eval 1 +", "eval 1 / 0"):
        assert shell.run(line) == 1
    assert capsys.readouterr().err == ("eval: invalid expression: (1 +)\neval: invalid expression: (1 / 0)\n")


def test_eval_of_absurd_shifts_is_quick() -> None:
    assert "hexadecimal: 0  " in run("eval (1 << 99999999999999999999)")


def test_eval_json() -> None:
    found = json.loads(run("eval --json 3 + 4"))
    assert found == {
        "command": "eval",
        "kind": "value",
        "hexadecimal": "0x7",
        "decimal": 7,
        "signed": 7,
        "bits": [2, 1, 0],
    }


def test_ascii_chart_has_every_character() -> None:
    lines = run("ascii").splitlines()
    assert lines[1] == "      0    1   2   3   4   5   6   7"
    assert lines[3] == "  0 | NUL DLE  SP  0   @   P   `   p"
    assert lines[18] == "  F |  SI  US  /   ?   O   _   o  DEL"
    assert len(lines) == 20


def test_alias_listing_and_life() -> None:
    text = run("alias")
    assert text.splitlines()[:2] == ["ORIGIN   ALIAS    COMMAND", "builtin  man      help"]
    assert len(text.splitlines()) == 16
    assert run("alias foo eval -b", "foo 7").splitlines()[-1] == "   bits set: 2 1 0 "
    assert run("alias foo eval -b", 'alias foo ""').splitlines()[-1] == "alias deleted: foo"


def test_alias_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    shell, _ = shell_with()
    for line in ("alias eval p", "alias nope", 'alias nope ""'):
        assert shell.run(line) == 1
    assert capsys.readouterr().err == (
        "alias: cannot alias existing command name: eval\n"
        "alias: alias does not exist: nope\n"
        "alias: no such alias exists: nope\n"
    )


def test_help_menu_and_pages(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run("help").splitlines()
    assert lines[0] == "" and all(len(line) % 15 == 0 for line in lines[1:3])
    assert run("man eval") == run("help eval")
    page = run("help repeat")
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"):
        assert f"\n{heading}\n  " in page
    assert "  repeat [-seconds] command\n" in page
    shell, _ = shell_with()
    assert shell.run("help nosuch") == 1
    assert capsys.readouterr().err == 'help: No help data for "nosuch" is available.\n'


@pytest.mark.parametrize("topic", ["input", "output", "commands", "q"])
def test_help_topics(topic: str) -> None:
    assert len(run(f"help {topic}")) > 100


EXTENSION = """
from kcrash.commands.base import command, Text

@command("hello", summary="greet", needs_session=False)
def hello(context, args):
    yield Text("hello from outside")
"""


def test_extend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "greet.py"
    file.write_text(EXTENSION)
    text = run(f"extend {file}", "hello", "extend", "extend -u")
    assert text.splitlines() == [
        f"{file}: loaded",
        "hello from outside",
        "SHARED OBJECT   COMMANDS",
        f"{file} hello",
        f"{file}: unloaded",
    ]
    shell, _ = shell_with()
    assert shell.run("hello") == 1


def test_extend_failures_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell, kept = shell_with()
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text(EXTENSION + "1 / 0\n")
    (tmp_path / "taken.py").write_text(EXTENSION.replace('"hello"', '"eval"'))
    for name in ("empty.py", "broken.py", "taken.py", "missing.py"):
        assert shell.run(f"extend {tmp_path / name}") == 1
    assert shell.run("extend nosuch") == 1
    assert shell.run("hello") == 1
    assert "ZeroDivisionError" in kept.text and "duplicate command 'eval'" in kept.text


def shown(settings: Settings, line: str) -> str:
    kept = Kept()
    for item in settings_items(settings, line.split()):
        TextRenderer(kept).render(item, "set")
    return kept.text


def test_set_variables_as_crash_shows_them() -> None:
    settings = Settings()
    assert shown(settings, "radix") == "output radix: 10 (decimal)\n"
    assert shown(settings, "hex") == "output radix: 16 (hex)\n"
    assert settings.radix == 16
    assert shown(settings, "print_max 300") == "print_max: 300\n"
    assert shown(settings, "scroll off edit emacs") == "scroll: off (none)\nedit: emacs\n"
    assert shown(settings, "null-stop on") == "null-stop: on\n"
    assert (settings.scroll, settings.edit, settings.null_stop) == (False, "emacs", True)


def test_set_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        "radix 12",
        "print_max x",
        "scroll maybe",
        "offline never",
        "hash 2",
        "namelist x",
        "nosuch",
    ):
        with pytest.raises(CommandError):
            shown(Settings(), line)


def test_all_variables_are_shown_in_crash_order() -> None:
    kept = Kept()
    for item in all_settings(Settings()):
        TextRenderer(kept).render(item, "set")
    lines = kept.text.splitlines()
    assert lines[1] == "         radix: 10 (decimal)" and lines[-1] == "         error: default"
    assert [line.split(":")[0].strip() for line in lines] == [v.name for v in VARIABLES if not v.hidden]
    assert is_variable("null-stop") and is_variable("hex") and not is_variable("1")


def test_repeat_stops_when_the_command_fails(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    shell, _ = shell_with()
    shell.context.session = cast("Any", SimpleNamespace(live=False))
    assert shell.run("repeat -1 nosuch_command_ever -x") == 1
    assert "the command failed" in capsys.readouterr().err
