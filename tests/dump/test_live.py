"""The running kernel: kcrash inside a guest, beside what the guest's /proc says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kcrash.dump import live
from kcrash.errors import KcrashError
from kcrash.session import open_session
from tests.lab import lab
from tests.lab.live import run

SCRIPT = (
    "ps --json",
    "!sleep 4321 &",
    "!sleep 1",
    "ps --json sleep",  # the new one too: read anew
    "mod --json",
    "sys --json",
    "set --json",
    "sym --json linux_banner",
    "foreach sleep bt --json",
    "log",
)


@pytest.fixture(scope="module")
def guest() -> Mapping[str, str]:
    """What a guest printed, once."""
    lab.require("6.12")
    return run("6.12", SCRIPT)


@pytest.fixture(scope="module")
def rows(guest: Mapping[str, str]) -> list[dict[str, Any]]:
    """All rows of the commands with --json."""
    assert "STATUS 0" in guest["kcrash"]
    return [json.loads(line) for line in guest["kcrash"].splitlines() if line.startswith("{")]


def of(rows: list[dict[str, Any]], command: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["command"] == command]


def test_tasks(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    told = {
        int(pid): (name[:15], int(parent))
        for pid, name, parent in re.findall(r"^(\d+) \((.*?)\) \w (\d+) ", guest["tasks"], re.MULTILINE)
    }
    shown = {row["pid"]: (row["comm"], row["ppid"]) for row in of(rows, "ps") if row["pid"]}
    workers = {pid for pid, (name, _parent) in told.items() if name.startswith(("kworker", "cat", "sh"))}
    assert len(told) > 50 and not told.keys() - shown.keys() - workers
    for pid in told.keys() - workers:
        assert shown[pid] == told[pid]


def test_tasks_are_read_anew(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    sleepers = [row["pid"] for row in of(rows, "ps") if row["comm"] == "sleep"]
    assert int(guest["sleeper"]) in sleepers
    assert len(sleepers) == 3 and len(set(sleepers)) == 2  # one at first, two then


def test_modules(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    told = {line.split()[0]: int(line.split()[1]) for line in guest["modules"].splitlines()}
    assert {row["name"]: row["size"] for row in of(rows, "mod")} == told and len(told) > 5


def test_the_system(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    (row,) = of(rows, "sys")
    assert row["release"] in guest["version"] and "panic" not in row
    before, after = (float(guest[name].split()[0]) for name in ("before", "after"))
    assert before - 2 < row["uptime"] < after + 2


def test_the_context_is_kcrash_itself(rows: list[dict[str, Any]]) -> None:
    (row,) = of(rows, "set")
    assert row["comm"].startswith("python3") and "TASK_RUNNING" in row["state"]


def test_symbols(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    told = dict(re.findall(r"^(\w+) \w (linux_banner)$", guest["symbols"], re.MULTILINE))
    (row,) = of(rows, "sym")
    assert f"{int(row['address'], 16):x}" in told


def test_stacks(guest: Mapping[str, str], rows: list[dict[str, Any]]) -> None:
    told = re.findall(r"\] (\S+)\+0x", guest["stack"])
    frames = [row for row in of(rows, "bt") if row["kind"] == "frame" and row["pid"] == int(guest["sleeper"])]
    names = [frame["symbol"] for frame in frames]
    assert len(told) > 4 and names[-len(told) :] == told and "schedule" in names[0]


def test_log(guest: Mapping[str, str]) -> None:
    """dmesg puts the time on each line of a message of several, kcrash on the first, as crash does."""
    told = [re.sub(r"^\[ *[\d.]+\] ", "", line) for line in guest["dmesg"].splitlines()]
    shown = {re.sub(r"^\[ *[\d.]+\] ", "", line).lstrip() for line in guest["kcrash"].splitlines()}
    assert len(told) > 100 and {line.lstrip() for line in told} <= shown


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "KCORE", tmp_path / "kcore")
    with pytest.raises(KcrashError, match="CONFIG_PROC_KCORE"):
        open_session([])
    (tmp_path / "kcore").mkdir()
    with pytest.raises(KcrashError, match="is a directory"):
        open_session([])
