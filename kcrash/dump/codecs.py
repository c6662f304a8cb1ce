"""Decompressors of single pages, each imported when the first page needs it.

A decompressor takes ``(data, size)`` and returns exactly ``size`` bytes; it
raises CorruptPage for anything else, and never makes much more than ``size``
bytes of whatever it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from kcrash.errors import KcrashError, MissingCodec

# page_desc.flags and header.status: makedumpfile diskdump_mod.h.
ZLIB, LZO, SNAPPY, ZSTD = 1, 2, 4, 0x20
CODEC_NAMES = {0: "none", ZLIB: "zlib", LZO: "lzo", SNAPPY: "snappy", ZSTD: "zstd"}
CODEC_MASK = ZLIB | LZO | SNAPPY | ZSTD

Decompressor = Callable[[bytes, int], bytes]


class CorruptPage(KcrashError):
    """Page data that does not decompress to a page; its text says why."""


_loaded: dict[int, Decompressor] = {}


def decompressor(flag: int) -> Decompressor:
    """The decompressor for a codec's flag. Raises MissingCodec, or CorruptPage for an unknown flag."""
    found = _loaded.get(flag)
    if found is None:
        if flag not in _makers:
            raise CorruptPage(f"unknown compression flags {flag:#x}")
        found = _loaded[flag] = _makers[flag]()
    return found


def _require(module: str, codec: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingCodec(codec, package) from None


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise CorruptPage(f"decompresses to {len(data)} bytes, not {size}")
    return data


def _zlib() -> Decompressor:
    """isal's is nearly twice as fast; it has no wheels for some CPUs."""
    import zlib

    decompressobj: Callable[[], Any] = zlib.decompressobj
    errors: tuple[type[Exception], ...] = (zlib.error,)
    try:
        isal = import_module("isal.isal_zlib")
        decompressobj, errors = isal.decompressobj, (isal.error, zlib.error)
    except ImportError:
        pass

    def decompress(data: bytes, size: int) -> bytes:
        stream = decompressobj()
        try:
            page = stream.decompress(data, size + 1)
        except errors as error:
            raise CorruptPage(f"zlib: {error}") from None
        if not stream.eof and len(page) <= size:
            raise CorruptPage("zlib: incomplete stream")
        return _exactly(page, size)

    return decompress


def _lzo() -> Decompressor:
    module = _require("lzallright", "LZO", "lzallright")
    expand, error_type = module.LZOCompressor.decompress, module.LZOError

    def decompress(data: bytes, size: int) -> bytes:
        try:
            page: bytes = expand(data, size)
        except error_type as error:
            # One of these errors carries the whole output: only the code is for people.
            raise CorruptPage(f"LZO: {error.args[0] if error.args else error_type.__name__}") from None
        return _exactly(page, size)

    return decompress


def _snappy() -> Decompressor:
    module = _require("cramjam", "snappy", "cramjam")
    expand_into, error_type = module.snappy.decompress_raw_into, module.DecompressionError

    def decompress(data: bytes, size: int) -> bytes:
        page = bytearray(size)
        try:
            written = expand_into(data, page)
        except error_type as error:
            raise CorruptPage(str(error)) from None
        if written != size:
            raise CorruptPage(f"decompresses to {written} bytes, not {size}")
        return bytes(page)

    return decompress


def _zstd() -> Decompressor:
    module = _require("zstandard", "zstd", "zstandard")
    error_type, content_size = module.ZstdError, module.frame_content_size
    per_thread = threading.local()  # a decompressor must not be shared by threads

    def decompress(data: bytes, size: int) -> bytes:
        try:
            # The size that the frame claims would be allocated, whatever max_output_size says.
            if content_size(data) not in (size, -1):
                raise CorruptPage(f"decompresses to {content_size(data)} bytes, not {size}")
            page = per_thread.decompress(data, size)
        except AttributeError:
            per_thread.decompress = module.ZstdDecompressor().decompress
            return decompress(data, size)
        except error_type as error:
            raise CorruptPage(f"zstd: {error}") from None
        return _exactly(page, size)

    return decompress


_makers: dict[int, Callable[[], Decompressor]] = {ZLIB: _zlib, LZO: _lzo, SNAPPY: _snappy, ZSTD: _zstd}
