"""The variables of ``set``: their values, their validators, and how ``set`` shows and changes them.

The command ``set`` itself uses `settings_items` for its arguments that are
variables, and `find` to tell whether one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kcrash.errors import CommandError
from kcrash.output import Item, Record


@dataclass(eq=False, slots=True)
class Settings:
    """Current values of the variables, by attribute. ``quiet``: changes are not shown (startup files)."""

    scroll: bool = True
    pager: str = ""
    radix: int = 10
    refresh: bool = True
    print_max: int = 256
    print_array: bool = False
    console: str = ""
    debug: int = 0
    core: bool = False
    hash: bool = True
    silent: bool = False
    edit: str = "vi"
    namelist: str = ""
    dumpfile: str = ""
    unwind: bool = False
    zero_excluded: bool = False
    null_stop: bool = False
    gdb: bool = False
    scope: int = 0
    offline: str = "show"
    redzone: bool = True
    error: str = "default"
    json: bool = False
    quiet: bool = False

    def assign(self, name: str, text: str) -> None:
        """Set a variable from text; CommandError if there is none of that name or the value is bad."""
        variable = find(name)
        if name == "scroll":
            self._assign_scroll(text)
            return
        if variable is None or variable.parse is None:
            raise CommandError(f"{name}: no such variable, or it cannot be set")
        try:
            setattr(self, variable.attribute, variable.parse(text))
        except (ValueError, KeyError) as error:
            raise CommandError(f"invalid {name} value: {text}: {error}") from None

    def _assign_scroll(self, text: str) -> None:
        if text in ("less", "more", "CRASHPAGER"):
            self.scroll, self.pager = True, text
        elif text in ("on", "off"):
            self.scroll = text == "on"
        else:
            raise CommandError(f"invalid scroll value: {text}: must be on, off, less, more or CRASHPAGER")


class Variable(NamedTuple):
    """A variable of ``set``: ``parse`` makes a value of a text or raises ValueError (None: cannot be set)."""

    name: str
    help: str
    parse: Callable[[str], Any] | None
    show: Callable[[Any], str] = str
    choices: str = ""
    hidden: bool = False

    @property
    def attribute(self) -> str:
        """The attribute of `Settings`."""
        return self.name.replace("-", "_")


def _switch(text: str) -> bool:
    values = {"on": True, "off": False, "1": True, "0": False}
    if text not in values:
        raise ValueError("must be on or off")
    return values[text]


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return parse


def _radix(text: str) -> int:
    values = {
        "10": 10,
        "16": 16,
        "0xa": 10,
        "0x10": 16,
        "dec": 10,
        "hex": 16,
        "decimal": 10,
        "hexadecimal": 16,
    }
    if text not in values:
        raise ValueError("must be 10 or 16")
    return values[text]


def _natural(text: str) -> int:
    value = int(text, 0)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _debug(text: str) -> int:
    return {"on": 1, "off": 0}[text] if text in ("on", "off") else _natural(text)


def _text(text: str) -> str:
    return text


def _toggle(name: str, help: str, hidden: bool = False) -> Variable:
    return Variable(name, help, _switch, _on_off, "on|off", hidden)


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "scroll",
        "page output on a terminal: on, off, less, more or CRASHPAGER",
        None,
        choices="on|off|less|more|CRASHPAGER",
    ),
    Variable("radix", "output radix of integers: 10 or 16", _radix, choices="10|16"),
    _toggle("refresh", "read what may have changed anew before each command, on a live system"),
    Variable("print_max", "array elements shown at most", _natural),
    _toggle("print_array", "one array element a line"),
    Variable("console", "file or terminal for debug messages", _text, lambda v: v or "(not assigned)"),
    Variable("debug", "debug level", _debug),
    _toggle("core", "write a core file of this program on an internal error"),
    _toggle("hash", "detect loops in linked lists"),
    _toggle("silent", "print nothing but what commands print"),
    Variable("edit", "line editing mode: vi or emacs", _choice("vi", "emacs"), choices="vi|emacs"),
    Variable("namelist", "kernel file (cannot be set)", None),
    Variable("dumpfile", "dump file (cannot be set)", None),
    _toggle("unwind", "accepted for old scripts: every table that the kernel has is used to unwind"),
    _toggle("zero_excluded", "read pages excluded from the dump as zeroes"),
    _toggle("null-stop", "stop printing character arrays at a NUL"),
    _toggle("gdb", "treat lines as gdb commands (not supported)"),
    Variable(
        "scope",
        "text address whose scope prefers data types",
        None,
        lambda v: f"{v:x}" if v else "0 (not set)",
    ),
    Variable("offline", "show or hide offline CPUs", _choice("show", "hide"), choices="show|hide"),
    _toggle("redzone", "show the address after a red zone of slab objects"),
    Variable("error", "where errors go: default, redirect or a file", _text, choices="default|redirect"),
    _toggle("json", "print JSON lines instead of text", hidden=True),
)

WORDS = {"hex": ("radix", "16"), "dec": ("radix", "10"), "vi": ("edit", "vi"), "emacs": ("edit", "emacs")}
"""Words that ``set`` takes instead of a variable and a value."""


def find(name: str) -> Variable | None:
    """The variable of that name."""
    return next((v for v in VARIABLES if v.name == name), None)


def is_variable(word: str) -> bool:
    """Whether ``set word ...`` is about a variable, not about a task."""
    return word in WORDS or find(word) is not None


def settings_items(settings: Settings, words: Sequence[str]) -> Iterator[Item]:
    """``set variable [value] ...``: change or show variables; several may follow each other."""
    left = list(words)
    while left:
        name = left.pop(0)
        if name in WORDS:
            name, value = WORDS[name]
            left.insert(0, value)
        variable = find(name)
        if variable is None:
            raise CommandError(f"invalid variable: {name}")
        if (left and not is_variable(left[0])) or (left and left[0] in WORDS and name in ("radix", "edit")):
            settings.assign(name, left.pop(0))
        if not settings.quiet:
            yield _shown(settings, variable, len(name))


def all_settings(settings: Settings) -> Iterator[Item]:
    """``set -v``: all variables."""
    for variable in VARIABLES:
        if not variable.hidden:
            yield _shown(settings, variable, 14)


def _shown(settings: Settings, variable: Variable, width: int) -> Item:
    value = getattr(settings, variable.attribute)
    if variable.name == "scroll":
        text = f"on ({settings.pager or 'less'})" if value else "off (none)"
    elif variable.name == "radix":
        text = f"{value} ({'decimal' if value == 10 else 'hex'})"
    else:
        text = variable.show(value)
    label = "output radix" if variable.name == "radix" and width < 14 else variable.name
    return Record("variable", {"variable": variable.name, "value": value}, f"{label:>{width}}: {text}")
