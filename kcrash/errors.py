"""The one family of exceptions.

A fault is data: each class keeps what a caller may want to test or print as
JSON; ``str()`` of any of them is the single line that a user sees.
"""

from __future__ import annotations

from enum import Enum


class KcrashError(Exception):
    """Base of everything that kcrash raises on purpose."""


class BadFormat(KcrashError):
    """A file is not what its content claims to be.

    ``file``: path as given; ``offset``: byte offset of the offending data in
    it, or None where no single place is at fault; ``what``: the reason.
    """

    def __init__(self, file: str, what: str, offset: int | None = None) -> None:
        self.file = file
        self.offset = offset
        self.what = what
        where = file if offset is None else f"{file}: offset {offset:#x}"
        super().__init__(f"{where}: {what}")


class MissingCodec(KcrashError):
    """A page is compressed by a codec whose package is not installed."""

    def __init__(self, codec: str, package: str) -> None:
        self.codec = codec
        self.package = package
        super().__init__(f"pages are compressed with {codec}: install the Python package {package!r}")


class FaultReason(Enum):
    """Why bytes at an address cannot be had."""

    NOT_IN_DUMP = "not in dump"
    EXCLUDED = "excluded from dump"
    NOT_MAPPED = "not mapped"
    TRUNCATED = "beyond the end of the dump file"
    CORRUPT = "page data is corrupt"
    SWAPPED = "swapped out"


class MemoryFault(KcrashError):
    """Bytes that could not be read.

    ``space``: name of the address space ("physical", "kernel", "user of PID 1");
    ``address``: first address in that space that failed.
    """

    def __init__(self, space: str, address: int, reason: FaultReason, detail: str = "") -> None:
        self.space = space
        self.address = address
        self.reason = reason
        self.detail = detail
        super().__init__(f"{space} address {address:x}: {reason.value}" + (f" ({detail})" if detail else ""))


class MissingType(KcrashError, LookupError):
    """No type of that name in this kernel."""

    def __init__(self, name: str, detail: str = "", kernel: str = "") -> None:
        self.name = name
        where = f" in kernel {kernel}" if kernel else ""
        super().__init__(f"no type named {name!r}{where}" + (f": {detail}" if detail else ""))

    def __str__(self) -> str:
        return str(self.args[0])


class MissingMember(KcrashError, AttributeError):
    """A type lacks a member in this kernel."""

    def __init__(self, type_name: str, member: str, kernel: str = "") -> None:
        self.type_name = type_name
        self.member = member
        self.kernel = kernel
        super().__init__(f"{type_name} has no member {member!r}" + (f" in kernel {kernel}" if kernel else ""))

    def in_kernel(self, kernel: str) -> MissingMember:
        """The same, naming the kernel, which a type alone does not know."""
        return MissingMember(self.type_name, self.member, self.kernel or kernel)


class MissingSymbol(KcrashError, LookupError):
    """No symbol of that name, or none at that address."""

    def __init__(self, name: str, kernel: str = "") -> None:
        self.name = name
        super().__init__(f"no symbol {name!r}" + (f" in kernel {kernel}" if kernel else ""))

    def __str__(self) -> str:
        return str(self.args[0])


class MismatchError(KcrashError):
    """The files given do not belong together (build-ids or versions differ)."""


class CorruptData(KcrashError):
    """A kernel data structure in the dump is broken: a loop, an absurd length, a wild pointer."""


class ExpressionError(KcrashError):
    """A C expression cannot be parsed or evaluated. ``column`` is 0-based, or None."""

    def __init__(self, what: str, column: int | None = None) -> None:
        self.column = column
        super().__init__(what)


class CommandError(KcrashError):
    """A command was refused or could not do its work."""


class UsageError(CommandError):
    """The arguments of a command do not fit its declaration."""
