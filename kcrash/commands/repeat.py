"""``repeat``: a command again and again."""

from __future__ import annotations

import time

from kcrash.commands.base import Arguments, Context, Number, Raw, command
from kcrash.errors import CommandError


@command(
    "repeat",
    summary="repeat a command",
    arguments=[
        Number("seconds", "wait so long between two runs"),
        Raw("command", "the command line to repeat", completes="command"),
    ],
    description="""
Runs a command until Ctrl-C is pressed. It is of use on a live system, where
the answer changes. The repetition stops when the command fails.""",
    examples=[("Watch the run queues every five seconds:", "repeat -5 runq")],
)
def repeat(context: Context, args: Arguments) -> None:
    while True:
        if context.run(args.command):
            raise CommandError("the command failed")
        time.sleep(args.seconds or 0)
