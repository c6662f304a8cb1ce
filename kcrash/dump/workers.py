"""Threads for decompression, which mostly runs without the interpreter's lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

MAX_WORKERS = 8


@lru_cache(maxsize=1)
def workers() -> ThreadPoolExecutor:
    """The process's threads, one a CPU."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_WORKERS), thread_name_prefix="kcrash-pages")
