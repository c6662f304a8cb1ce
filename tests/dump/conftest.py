"""What every test of kcrash.dump has."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked dumps go to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("kcrash-cache")
    monkeypatch.setenv("KCRASH_CACHE", str(folder))
    return folder
