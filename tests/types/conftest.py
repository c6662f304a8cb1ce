"""Fixtures of the tests of types: kernels with debug info."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", params=["6.1", "6.12"])
def lab_vmlinux(request: pytest.FixtureRequest) -> Path:
    """A kernel's ELF file with DWARF, if the lab has been made on this machine."""
    version = str(request.param)
    try:
        from tests.lab import cache, kernels
    except ImportError as error:
        pytest.skip(f"NO LAB: real kernels are not looked at ({error})")
    if not (cache.root() / "kernels" / f"{version}.json").exists():
        pytest.skip(f"NO LAB: python -m tests.lab --kernel {version} makes it; no real kernel is looked at")
    return kernels.kernel(version).vmlinux
