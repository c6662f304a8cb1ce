"""Sizes in bytes, as people read them."""

from __future__ import annotations

UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


def size_text(size: int) -> str:
    """``767.4 MB``, ``64 GB``: one digit behind the point, none if it is 0."""
    unit, name = next(((n, name) for n, name in UNITS if size >= n), UNITS[-1])
    return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
