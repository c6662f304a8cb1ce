"""ps, sys, set, task and foreach against crash (differences.md); tasks against drgn: test_every_dump."""

from __future__ import annotations

import re
from collections.abc import Callable

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
    "sys",
    "sys -t",
    "sys -i",
    "sys -c",
    "sys -c read",
    "sys -c 0x3",
    "sys -c 9999",
    "sys -c nosuch",
    "sys config",
    "sys -panic",
    "set",
    "set 0",
    "set 1",
    "set 0x2",
    "set a",
    "set 99999",
    "set init",
    "set -c 0",
    "set -c 1",
    "set -c 9",
    "set -p",
    "foreach set",
    "foreach ps",
    "foreach RU ps",
    "foreach IN ps",
    "foreach UN ps",
    "foreach ID ps",
    "foreach ZO ps",
    "foreach ST ps",
    "foreach TR ps",
    "foreach DE ps",
    "foreach kernel ps",
    "foreach user ps -s",
    "foreach gleader ps",
    "foreach active ps",
    "foreach user ps -G",
    "foreach user ps -p",
    "foreach user ps -c",
    "foreach user ps -t",
    "foreach user ps -l",
    "foreach user ps -m",
    "foreach user ps -a",
    "foreach user ps -g",
    "foreach user ps -r",
    "foreach user ps -y 0",
    "foreach 2 1 ps",
    "foreach 1 1 ps",
    "foreach 1 kernel ps",
    "foreach init kthreadd ps",
    "foreach 'lab-.*' ps",
    "foreach 'lab-.*' set",
    "foreach 'nosuch.*' ps",
    "foreach nosuch ps",
    "foreach 99999 ps",
    "foreach IN UN ps",
    "foreach \\init ps",
    "task -R pid,tgid,comm 1",
    "task -R flags 1 2",
    "task -R se.vruntime,thread.sp 1",
    "task -R nosuch 1",
    "task -R pid 99999 1",
    "task -x -R flags,state,__state 1",
    "foreach user task -R pid,comm",
    "foreach kernel task -R flags,cpu -x",
    "task 1",
    "task -x 2",
    "task -d 2",
)


def _begins(*words: str) -> Callable[[str], bool]:
    return lambda line: line.startswith(words)


# Command -> the lines (blanks squeezed) that differ on purpose; differences.md tells why.
KNOWN: dict[str, Callable[[str], bool]] = {
    "foreach set": lambda line: " of 2)" in line,
    "task -R se.vruntime,thread.sp 1": lambda line: "thread.sp" in line,
}
# crash takes CONFIG_HZ for 1000 on these kernels; it is 250.
HZ_WRONG = ("6.12",)
HZ_LINES = {
    "sys": _begins("UPTIME:"),
    **dict.fromkeys(("ps -t", "ps -t 0 2", "foreach user ps -t"), _begins("RUN TIME:")),
}


def test_same(parity: Parity, command: str) -> None:
    known = KNOWN.get(command)
    if known is None and parity.kernel in HZ_WRONG:
        known = HZ_LINES.get(command)
    parity.check(command, known or (lambda line: False))


def test_uptime_is_that_of_the_log(parity: Parity) -> None:
    """The proof that HZ is right: the log's last time stamp is no later than the uptime, and near it."""
    days = re.search(r"UPTIME: (\d+):(\d+):(\d+)", parity.kcrash("sys"))
    assert days
    uptime = int(days[1]) * 3600 + int(days[2]) * 60 + int(days[3])
    last = float(re.findall(r"^\[ *(\d+\.\d+)\]", parity.kcrash("log"), re.M)[-1])
    assert last - 3 <= uptime <= last + 60
