"""The variables of a frame's functions, as ``bt -V`` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kcrash.commands._source import functions_data, place
from kcrash.commands._structs import formatter_of
from kcrash.commands.base import Context
from kcrash.errors import KcrashError
from kcrash.linux.locals import FunctionFrame, Local, frame_functions
from kcrash.output import Address
from kcrash.unwind.unwinder import Frame
from kcrash.values.format import Decoder, Formatter
from kcrash.values.scope import Scope, scope_of

INDENT = "    "


@dataclass(frozen=True, slots=True)
class Described:
    """A function with its variables as text and as JSON."""

    frame: FunctionFrame
    texts: list[str]
    data: dict[str, object]

    def lines(self, *, alone: bool) -> list[str]:
        """Its place, and its variables; ``alone``: nothing is inlined into it, nor it into another."""
        kind = "in" if alone else "inlined" if self.frame.inlined else "inlined in"
        return [f"{INDENT}({kind}) {place(self.frame)}", *self.texts]


class VariableStyle:
    """Shows variables; ``radix``: of integers."""

    def __init__(self, context: Context, radix: int) -> None:
        self._context = context
        self._radix = radix

    @cached_property
    def _scope(self) -> Scope:
        return scope_of(self._context.session)

    @cached_property
    def _formatter(self) -> Formatter:
        return formatter_of(self._context, self._radix, self._scope)

    def of_frame(self, frames: Sequence[Frame], index: int) -> list[Described]:
        """The functions of a frame, the innermost first; none where the debuginfo does not tell."""
        try:
            found = frame_functions(self._context.session, frames, index)
        except KcrashError:
            return []
        return [self._described(function) for function in found]

    def _described(self, function: FunctionFrame) -> Described:
        shown = [self._shown(local) for local in function.variables]
        texts = [line for text, _data in shown for line in text]
        data = {**functions_data([function])[0], "variables": [data for _text, data in shown]}
        return Described(function, texts, data)

    def _shown(self, local: Local) -> tuple[list[str], dict[str, object]]:
        """``(lines, data)`` of a variable."""
        data: dict[str, object] = {
            "name": local.name,
            "type": str(local.type),
            "parameter": local.parameter,
        }
        why = local.why
        if local.value is not None:
            try:
                text = self._formatter.text(local.value)
                data["value"] = Decoder(self._scope, Address).value(local.value)
                if local.value.address_ is not None:
                    data["address"] = Address(local.value.address_)
                return _indented(f"{local.name} = {text}"), data
            except KcrashError as error:
                why = str(error)
        return _indented(f"{local.name} = <{why}>"), {**data, "absent": why}


def _indented(text: str) -> list[str]:
    return [f"{INDENT * 2}{line}" for line in text.splitlines()]
