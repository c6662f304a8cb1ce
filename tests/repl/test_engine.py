"""The completion engine, as a function."""

from __future__ import annotations

import pytest

from kcrash.commands._arguments import Arg, Declaration, Flag, Option, Raw, Rest
from kcrash.repl.engine import FIRST, NOTHING, Suggestion, suggest

DECLARED = {
    "ps": Declaration(
        [Flag("-k", "k"), Option("-C", "cpus", "c"), Option("-y", "p", "", completes="NORMAL|FIFO"),
         Rest("selector", completes="task")]
    ),
    "struct": Declaration(
        [Flag("-o", "o"), Option("-l", "off", "", completes="type"), Arg("type", completes="type"),
         Rest("address", completes="symbol")]
    ),
    "repeat": Declaration([Raw("command", completes="command")]),
    "foreach": Declaration([Arg("what", completes="task"), Raw("command", completes="command")]),
    "exit": Declaration([]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("", Suggestion("", FIRST)),
        ("p", Suggestion("p", FIRST)),
        ("\\p", Suggestion("p", FIRST)),
        ("!ls", NOTHING),
        ("# ps", NOTHING),
        ("ps | gr", NOTHING),
        ("ps > /tm", Suggestion("/tm", ("file",))),
        ("ps >> ", Suggestion("", ("file",))),
        ("< scr", Suggestion("scr", ("file",))),
        ("ps ", Suggestion("", ("task",))),
        ("ps 1 ba", Suggestion("ba", ("task",))),
        ("ps -", Suggestion("-", words=("-k", "-C", "-y", "--json"))),
        ("ps -C ", Suggestion("")),
        ("ps -ky ", Suggestion("", words=("NORMAL", "FIFO"))),
        ("ps -y N", Suggestion("N", words=("NORMAL", "FIFO"))),
        ("ps -yN ", Suggestion("", ("task",))),
        ("struct ta", Suggestion("ta", ("type",))),
        ("struct task_struct.co", Suggestion("co", ("member",), owner="task_struct")),
        ("struct task_struct.se.vr", Suggestion("vr", ("member",), owner="task_struct.se")),
        ("struct task_struct.pid,co", Suggestion("co", ("member",), owner="task_struct")),
        ("struct -o task_struct ini", Suggestion("ini", ("symbol",))),
        ("struct -l list", Suggestion("list", ("type",))),
        ("repeat p", Suggestion("p", FIRST)),
        ("repeat ps -", Suggestion("-", words=("-k", "-C", "-y", "--json"))),
        ("repeat struct ta", Suggestion("ta", ("type",))),
        ("foreach RU p", Suggestion("p", FIRST)),
        ("exit x", Suggestion("x")),
        ("task_struct.co", Suggestion("co", ("member",), owner="task_struct")),
        ("init_task x", Suggestion("x", ("symbol", "type"))),
    ],
)
def test_suggestions(text: str, suggestion: Suggestion) -> None:
    assert suggest(text, DECLARED.get) == suggestion
