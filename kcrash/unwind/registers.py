"""Registers of one frame: what is known, and nothing else.

Numbers are those of DWARF (x86_64: System V ABI AMD64 supplement, figure
3.36). A register that cannot be recovered is absent, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Registers(Mapping[int, int]):
    """DWARF register number -> unsigned value, for the registers that are known.

    Not to be changed once made; ``registers.get(n)`` is None for an unknown one.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[int, int] | None = None) -> None:
        self._values: dict[int, int] = dict(values) if values else {}

    @classmethod
    def adopt(cls, values: dict[int, int]) -> Registers:
        """Take over a dictionary that nobody else will change: no copy."""
        made = cls.__new__(cls)
        made._values = values
        return made

    def __getitem__(self, number: int) -> int:
        return self._values[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, number: object) -> bool:
        return number in self._values

    def get(self, number: int, default: int | None = None) -> int | None:  # type: ignore[override]
        """The value, or ``default`` if it is unknown."""
        return self._values.get(number, default)

    def replaced(self, changes: Mapping[int, int | None]) -> Registers:
        """A copy with other values; None makes a register unknown."""
        kept = {number: value for number, value in self._values.items() if number not in changes}
        kept.update((number, value) for number, value in changes.items() if value is not None)
        return Registers.adopt(kept)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Registers):
            return self._values == other._values
        return isinstance(other, Mapping) and self._values == dict(other)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Registers({{{', '.join(f'{n}: {v:#x}' for n, v in self._values.items())}}})"
