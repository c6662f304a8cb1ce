"""Typed values of the dead kernel: ``session["init_task"].tasks.next``."""

from kcrash.values.value import Target, Value

__all__ = ["Target", "Value"]
