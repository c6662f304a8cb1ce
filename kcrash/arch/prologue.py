"""What a function has done to the stack up to some place, by its own code: where no table tells it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kcrash.arch.base import Prologue


@dataclass
class PrologueReader:
    """Takes the instructions that matter in the order of their addresses.

    Code behind a return is reached from before the epilogue: what that undid is in force again.
    """

    taken: int = 0
    saved: dict[int, int] = field(default_factory=dict)
    frame_pointer: int | None = None
    _body: tuple[int, dict[int, int]] | None = None

    def take(self, size: int) -> None:
        """The stack pointer goes down by ``size`` bytes, or up if negative: an epilogue."""
        if size < 0:
            self.restore(self.taken + size)
        else:
            self.taken += size

    def save(self, register: int, offset: int) -> None:
        """A register (DWARF number) is stored, ``offset`` from the stack pointer. The first time counts."""
        self.saved.setdefault(register, offset - self.taken)

    def set_frame_pointer(self, offset: int) -> None:
        """The frame pointer becomes the stack pointer plus ``offset``."""
        if self.frame_pointer is None:
            self.frame_pointer = offset - self.taken

    def restore(self, taken: int = 0) -> None:
        """The stack pointer goes up to where ``taken`` bytes are left; what lies below is free."""
        if self._body is None:
            self._body = self.taken, dict(self.saved)
        self.taken = max(taken, 0)
        self.saved = {number: at for number, at in self.saved.items() if at >= -self.taken and taken > 0}

    def leave(self) -> None:
        """Control does not come to the next instruction from this one."""
        if self._body is not None:
            self.taken, self.saved = self._body
            self._body = None

    def result(self) -> Prologue:
        """What holds now."""
        return Prologue(self.taken, self.saved, self.frame_pointer if self.taken else None)
