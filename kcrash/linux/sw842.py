"""842, the compression of IBM's nx coprocessors and of the kernel's crypto API.

Format: Linux lib/842/842.h. A stream of bits, the highest first: templates of 5 bits, each of which
stands for eight bytes, as data or as what stands earlier in the page.
"""

from __future__ import annotations

from kcrash.errors import CorruptData

TEMPLATE_BITS, REPEAT_BITS, SHORT_BITS = 5, 6, 3
REPEAT, ZEROS, SHORT, END = 0x1B, 0x1C, 0x1D, 0x1E
INDEX_BITS = {2: 8, 4: 9, 8: 8}
# A template each, from 0 on: digits are bytes of data, letters copies of as many bytes (a 2, b 4, c 8).
TEMPLATES = (
    *("8", "42a", "4a2", "4aa", "4b", "2a4", "2a2a", "2aa2", "2aaa", "2ab"),
    *("a24", "a4a", "a2a2", "a2aa", "a2b", "aa4", "aa2a", "aaa2", "aaaa", "aab"),
    *("b4", "b2a", "ba2", "baa", "bb", "c"),
)
_COPIES = {"a": 2, "b": 4, "c": 8}


class _Bits:
    """The stream; reading behind its end raises CorruptData."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise CorruptData("842: the stream is cut")
        return self._value >> self._left & (1 << count) - 1


def decompress(data: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``data`` stands for. Raises CorruptData."""
    bits, out = _Bits(data), bytearray()
    while (template := bits.take(TEMPLATE_BITS)) != END:
        _expand(template, bits, out)
        if len(out) > size:
            raise CorruptData(f"842: decompresses to more than {size} bytes")
    if len(out) != size:
        raise CorruptData(f"842: decompresses to {len(out)} bytes, not {size}")
    return bytes(out)


def _expand(template: int, bits: _Bits, out: bytearray) -> None:
    if template == REPEAT:
        if len(out) < 8:
            raise CorruptData("842: nothing to repeat")
        out += out[-8:] * (bits.take(REPEAT_BITS) + 1)
    elif template == ZEROS:
        out += bytes(8)
    elif template == SHORT:  # of the kernel's own compressor, for a tail of less than eight bytes
        out += bytes(bits.take(8) for _ in range(bits.take(SHORT_BITS)))
    elif template < len(TEMPLATES):
        _by_template(TEMPLATES[template], bits, out)
    else:
        raise CorruptData(f"842: no template {template:#x}")


def _by_template(actions: str, bits: _Bits, out: bytearray) -> None:
    """Copies do not see what the same template has written."""
    known = len(out) & -8
    for action in actions:
        size = _COPIES.get(action)
        if size is None:
            out += bits.take(8 * int(action)).to_bytes(int(action), "big")
        else:
            start = _position(bits.take(INDEX_BITS[size]) * size, size << INDEX_BITS[size], known)
            if start + size > known:
                raise CorruptData("842: a copy from behind what is written")
            out += out[start : start + size]


def _position(offset: int, ring: int, known: int) -> int:
    """Where the page has what stands at ``offset`` of a ring of so many bytes, ``known`` being written."""
    if known <= ring:
        return offset
    section = known - known % ring
    return section + offset - (ring if offset >= known % ring else 0)
