"""What all tests share: tests that reach into the lab carry its marker by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

LAB_FIXTURES = {"dumps", "lab_session", "lab_vmlinux", "crash_output"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``lab`` what uses a real dump: by a fixture, or because its module imports tests.lab."""
    for item in items:
        module = getattr(item, "module", None)
        names = {getattr(value, "__name__", "") for value in vars(module).values()} if module else set()
        if LAB_FIXTURES & set(getattr(item, "fixturenames", ())) or "tests.lab.lab" in names:
            item.add_marker("lab")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test keeps on disk meets what users keep, or what an earlier run of the tests did."""
    patch = pytest.MonkeyPatch()
    patch.setenv("KCRASH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
