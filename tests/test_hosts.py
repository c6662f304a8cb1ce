"""Any host reads any dump: nothing that only Linux, or only Unix, has is needed where a dump is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import lab

pytestmark = pytest.mark.lab
KERNEL = "6.1"
COMMANDS = ("sys", "ps", "foreach bt", "mod", "log", "dis -l schedule 4", "struct task_struct init_task",
            "vtop init_task")  # fmt: skip


def output(module: str, words: list[str]) -> str:
    argv = [sys.executable, "-m", module, "-s", *words]
    argv += [word for command in COMMANDS for word in ("-c", command)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("form", ["elf", "zlib-d31", "qemu-zlib"])
def test_without_what_unix_has(form: str) -> None:
    lab.require(KERNEL)
    dumps = lab.dumps(KERNEL, names=[form])
    for words in ([str(dumps.vmlinux), str(dumps.forms[form])], [str(dumps.forms[form])]):
        assert output("tests.bare_host", words) == output("kcrash", words)


def test_cores_without_what_unix_has(tmp_path: Path) -> None:
    lab.require(KERNEL)
    dumps = lab.dumps(KERNEL, names=["elf"])
    cores = []
    for module in ("tests.bare_host", "kcrash"):
        core = tmp_path / module
        words = [str(dumps.vmlinux), str(dumps.forms["elf"]), "-c", "extend gcore"]
        argv = [sys.executable, "-m", module, "-s", *words, "-c", f"gcore -o {core} {dumps.truth.worker}"]
        subprocess.run(argv, check=True, capture_output=True)
        cores.append(core.read_bytes())
    assert cores[0] == cores[1] and cores[0].startswith(b"\x7fELF")
