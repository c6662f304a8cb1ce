"""ps, sys, set, task and foreach against crash."""

from __future__ import annotations

from tests.parity.conftest import Parity

COMMANDS = (
    "ps",
    "ps -p",
    "ps -c",
    "ps -t",
    "ps -l",
    "ps -m",
    "ps -a",
    "ps -g",
    "ps -r",
    "ps -S",
    "ps -A",
    "ps -s",
    "ps -k",
    "ps -u",
    "ps -G",
    "ps -H",
    "ps -y 0",
    "ps -y FIFO,RR",
    "ps -y NORMAL,batch,5",
    "ps -l -C 0",
    "ps -m -C all",
    "ps 99999",
    "ps 99999 1",
    "ps abc",
    "ps nosuch",
    "ps 'w.*'",
    "ps '^k.*d0?$'",
    "ps 1 1 init",
    "ps \\init",
    "ps -G 2",
    "ps -c 0 1 2",
    "ps -p 2 1",
    "ps -a 2",
    "ps -t 0 2",
    "ps -l 1 2",
    "ps -m 2",
    "ps -k 1",
    "ps -u 2",
    "ps -A 1",
    "ps -y foo",
    "ps -S 1",
    "ps -l -C 5",
)


def test_same(parity: Parity, command: str) -> None:
    parity.check(command)
