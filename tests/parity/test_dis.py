"""Instructions as crash (gdb) writes them: random routines, whole."""

from __future__ import annotations

import random
import re

from kcrash.session import open_session
from tests.lab.lab import Dumps
from tests.parity.conftest import Parity

FORMS = ("elf",)
ROUTINES = 60
ALLOWED = 0.003  # prefixes of no effect and reserved opcodes, which the two decoders name differently
_LINE = re.compile(r"(0x[0-9a-f]+) <[^>]*>:\s*(.*)")


def COMMANDS(dumps: Dumps, form: str) -> list[str]:  # the name that conftest looks for
    with open_session([str(dumps.vmlinux), str(dumps.forms[form])]) as session:
        end = session.symbols.address("_sinittext")  # what lies behind is freed, and no code any more
        known = [s for s in session.symbols.kernel.all() if s.type in "tT" and 0 < s.size < 3000]
        chosen = random.Random(dumps.kernel.release).sample([s for s in known if s.address < end], ROUTINES)
        return [f"dis {symbol.address:x}" for symbol in chosen]


def instructions(text: str) -> dict[str, str]:
    """Address -> instruction, blanks squeezed."""
    matches = (_LINE.match(line) for line in text.splitlines())
    return {match[1]: " ".join(match[2].split()) for match in matches if match}


def test_random_routines(parity: Parity) -> None:
    total, wrong = 0, []
    for command in parity.commands:
        theirs, ours = instructions(parity.crash(command)), instructions(parity.kcrash(command))
        total += len(theirs)
        wrong += [f"{a}: {text} | {ours.get(a)}" for a, text in theirs.items() if ours.get(a) != text]
    assert total > 2000
    assert len(wrong) <= ALLOWED * total, "\n".join(wrong)
