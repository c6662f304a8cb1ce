"""``virsh save`` and old ``virsh dump`` files: a header, the domain's XML, a migration stream.

libvirt src/qemu/qemu_saveimage.h, struct _virQEMUSaveHeader, in the host's byte order: {char magic[16],
u32 version, u32 data_len, u32 was_running, u32 format, u32 cookieOffset, u32 unused[14]}, then data_len
bytes of text; format says how the stream that follows is packed.
"""

from __future__ import annotations

from struct import unpack_from

from kcrash.dump.base import Dump, register_format
from kcrash.dump.qemu_stream import MAGIC as STREAM_MAGIC
from kcrash.dump.qemu_stream import open_stream
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAGIC, PARTIAL = b"LibvirtQemudSave", b"LibvirtQemudPart"
HEADER_SIZE = 92
MAX_VERSION = 16  # written so far: 1 to 3
RAW, SPARSE = 0, 6
CODECS = {1: "gzip", 2: "bzip2", 3: "xz", 4: "lzop", 5: "zstd"}
ALIGNED = 1 << 20  # a "sparse" image's stream may start somewhat later


@register_format("libvirt", sniff=lambda head: head.startswith((MAGIC, PARTIAL)), order=30)
def probe(source: Source) -> Dump | None:
    """A save file becomes what its stream holds."""
    head = source.peek(HEADER_SIZE)
    if len(head) < HEADER_SIZE:
        raise BadFormat(source.path, "ends within its libvirt header", len(head))
    order = "<" if 0 < unpack_from("<I", head, 16)[0] <= MAX_VERSION else ">"
    version, length, _, form = unpack_from(order + "4I", head, 16)
    if not 0 < version <= MAX_VERSION:
        raise BadFormat(source.path, f"libvirt save file of unknown version {version}", 16)
    start = HEADER_SIZE + length
    dump = _open(source, start, form)
    dump.info.incomplete = dump.info.incomplete or head.startswith(PARTIAL)
    dump.info.details["libvirt"] = version
    return dump


def _open(source: Source, start: int, form: int) -> Dump:
    if form in CODECS:
        from kcrash.dump._carrier import unpacked

        inner = unpacked(source, CODECS[form], start)
        try:
            return open_stream(inner, name="libvirt save")
        except BaseException:
            inner.close()
            raise
    if form not in (RAW, SPARSE):
        raise BadFormat(source.path, f"libvirt save file in unknown format {form}", 28)
    found = source.read_at(start, ALIGNED).find(STREAM_MAGIC) if form == SPARSE else 0
    return open_stream(source, start + max(found, 0), name="libvirt save")
