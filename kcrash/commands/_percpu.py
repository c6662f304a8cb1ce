"""CPU specifications behind a colon, and what is per-CPU data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.commands.base import Context, cpus
from kcrash.errors import CommandError, KcrashError
from kcrash.linux.cpus import is_per_cpu, online_cpus, possible_cpus

if TYPE_CHECKING:
    from kcrash.session import Session


def cpus_of(context: Context, spec: str) -> list[int]:
    """The CPUs of ``""`` (the context task's), ``a``, ``1,3-5``. Raises CommandError."""
    session = context.session
    if not spec:
        from kcrash.commands._tasks import context_task

        return [context_task(context).cpu]
    try:
        wanted = cpus(spec)
    except ValueError as error:
        raise CommandError(str(error)) from None
    known = possible_cpus(session)
    if isinstance(wanted, range):
        shown = set(online_cpus(session)) if context.settings.offline == "hide" else set(known)
        return [cpu for cpu in known if cpu in shown]
    if not set(wanted) <= set(known):
        raise CommandError(f"invalid cpu specification: {spec}")
    return wanted


def per_cpu_hint(session: Session, name: str, error: KcrashError) -> KcrashError:
    """The error, or where ``name`` is per-CPU data, one that says how to name a CPU."""
    if is_per_cpu(session, name):
        return CommandError(f"{name} is per-CPU data: add a CPU, as in {name}:0 or {name}:a ({error})")
    return error
