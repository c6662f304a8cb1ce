"""/proc/vmcore: kcrash in the capture kernel of a guest that panicked, beside what the guest said before."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab import lab
from tests.lab.live import run_capture

Consoles = tuple[Mapping[str, str], Mapping[str, str]]

SCRIPT = ("ps --json", "sys --json", "mod --json", "bt", "log | tail -200", "foreach sleep bt --json")


@pytest.fixture(scope="module")
def consoles() -> Consoles:
    """What the guest printed while it lived, and what its capture kernel did."""
    lab.require("6.12")
    return run_capture("6.12", SCRIPT)


@pytest.fixture(scope="module")
def rows(consoles: Consoles) -> list[dict[str, Any]]:
    printed = consoles[1]["kcrash"]
    assert "STATUS 0" in printed
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def test_tasks(consoles: Consoles, rows: list[dict[str, Any]]) -> None:
    told = re.findall(r"^(\d+) \((.*?)\) \w (\d+) ", consoles[0]["tasks"], re.MULTILINE)
    shown = {(row["pid"], row["comm"], row["ppid"]) for row in rows if row["command"] == "ps"}
    steady = {(int(pid), name[:15], int(parent)) for pid, name, parent in told
              if not name.startswith(("kworker", "cat", "sh"))}  # fmt: skip
    assert len(steady) > 20 and steady <= shown


def test_modules(consoles: Consoles, rows: list[dict[str, Any]]) -> None:
    told = {line.split()[0]: int(line.split()[1]) for line in consoles[0]["modules"].splitlines()}
    shown = {row["name"]: row["size"] for row in rows if row["command"] == "mod"}
    assert shown == told and len(told) > 5


def test_why_it_died(consoles: Consoles, rows: list[dict[str, Any]]) -> None:
    (system,) = [row for row in rows if row["command"] == "sys"]
    assert "sysrq" in system["panic"] and "sysrq_handle_crash" in consoles[1]["kcrash"]
    assert "/proc/vmcore" in system["dumpfile"]


def test_a_sleeping_task(consoles: Consoles, rows: list[dict[str, Any]]) -> None:
    told = re.findall(r"\] (\S+)\+0x", consoles[0]["stack"])
    sleeper = int(consoles[0]["sleeper"])
    names = [row["symbol"] for row in rows if row["kind"] == "frame" and row.get("pid") == sleeper]
    assert len(told) > 4 and names[-len(told) :] == told
