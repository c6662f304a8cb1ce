"""CPUs of the machine (kernel/cpu.c: the __cpu_*_mask bitmaps)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.errors import MemoryFault

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_CPUS = 8192  # the largest CONFIG_NR_CPUS of x86_64


def _mask(session: Session, name: str) -> list[int]:
    """CPU numbers in a cpumask.

    The masks were pointers (cpu_possible_mask) to bitmaps cpu_possible_bits before Linux
    commit c4c54dd1caf1 ("kernel/cpu.c: change type of cpu_possible_bits and friends") in v4.5.
    """
    address = session.symbols.find_kernel(f"__cpu_{name}_mask")
    if address is None:
        address = session.symbols.find_kernel(f"cpu_{name}_bits")
    if address is None:
        return [0]
    size = session.types.size("struct cpumask") if session.types.has("struct cpumask") else 8
    size = min(size, MAX_CPUS // 8)
    word = session.arch.word_bytes
    words = session.memory.words(address, max(1, size // word))
    bits = session.arch.word_bits
    return [i * bits + bit for i, value in enumerate(words) for bit in range(bits) if value >> bit & 1]


def possible_cpus(session: Session) -> list[int]:
    """Numbers of the CPUs that the kernel has per-CPU data for."""
    return session.reading("possible_cpus", lambda: _known(session, "possible"))


def online_cpus(session: Session) -> list[int]:
    """Numbers of the CPUs that were online."""
    return session.reading("online_cpus", lambda: _known(session, "online"))


def present_cpus(session: Session) -> list[int]:
    """Numbers of the CPUs that were plugged in."""
    return session.reading("present_cpus", lambda: _known(session, "present"))


def _known(session: Session, name: str) -> list[int]:
    try:
        return _mask(session, name)
    except MemoryFault:
        return [0]


def is_per_cpu(session: Session, name: str) -> bool:
    """True if a symbol is a per-CPU variable of the kernel or of a module."""
    symbol = session.symbols.symbol(name)
    start = session.symbols.find_kernel("__per_cpu_start")
    end = session.symbols.find_kernel("__per_cpu_end")
    if symbol is None or start is None or end is None or symbol.type in "tTwWaA":
        return False
    return start <= symbol.address < end and not name.startswith("__per_cpu_")
