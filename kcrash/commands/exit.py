"""``exit`` and ``q``: leave."""

from __future__ import annotations

from kcrash.commands._shell import Exit
from kcrash.commands.base import Arguments, Context, Rest, command


@command(
    "exit",
    summary="exit this session",
    arguments=[Rest("words", "ignored")],
    description="Bail out of the current session. The end of the input does the same.",
    minimal=True,
    aliases=("q",),
    needs_session=False,
)
def exit_(context: Context, args: Arguments) -> None:
    raise Exit
