"""``cd``: the folder that files without one are in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kcrash.commands.base import Arg, Arguments, Context, Item, Record, command
from kcrash.errors import CommandError


@command(
    "cd",
    summary="change the working directory",
    arguments=[Arg("folder", "the home directory without", optional=True, completes="file")],
    description="Files that commands write or read without naming a folder are in this one from now on.",
    examples=["cd /var/tmp"],
    minimal=True,
    needs_session=False,
)
def cd(context: Context, args: Arguments) -> Iterator[Item]:
    folder = args.folder or "~"
    try:
        os.chdir(Path(folder).expanduser())
    except (OSError, RuntimeError) as error:
        raise CommandError(f"{folder}: {getattr(error, 'strerror', None) or error}") from None
    here = str(Path.cwd())
    yield Record("folder", {"folder": here}, f"Working directory {here}.")
