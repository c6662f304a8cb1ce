"""Stacks that per-CPU variables tell of, for the architectures that keep them so."""

from __future__ import annotations

from typing import Any

from kcrash.arch.base import StackRange
from kcrash.errors import MemoryFault

OVERFLOW_STACK = 4096  # OVERFLOW_STACK_SIZE: asm/memory.h of arm64, asm/thread_info.h of riscv


def per_cpu_stacks(kernel: Any, pointers: dict[str, str]) -> list[StackRange]:
    """Stacks of a task's size behind per-CPU ``pointers`` (symbol -> name), and those for overflows.

    ``kernel``: see kcrash.linux.stack.StackProbe.
    """
    found: list[StackRange] = []
    for cpu in kernel.cpus:
        for symbol, name in pointers.items():
            low = _pointer(kernel, symbol, cpu)
            if low:
                found.append(StackRange(name, low, low + kernel.thread_size, cpu))
        overflow = kernel.per_cpu("overflow_stack", cpu)
        if overflow is not None:
            found.append(StackRange("OVERFLOW", overflow, overflow + OVERFLOW_STACK, cpu))
    return found


def _pointer(kernel: Any, symbol: str, cpu: int) -> int:
    address = kernel.per_cpu(symbol, cpu)
    try:
        return int(kernel.memory.word(address)) if address is not None else 0
    except MemoryFault:
        return 0
