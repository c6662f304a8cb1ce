"""Addresses as users type them, and how a failed read is told."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.errors import CommandError, KcrashError, MemoryFault
from kcrash.session import Session

MAX_ALTERNATIVES = 200


def parse_address(session: Session, text: str) -> int:
    """An address: hexadecimal digits, a symbol, ``symbol+offset`` or an expression in parentheses.

    Raises CommandError, which lists symbols of a similar name as crash does.
    """
    try:
        address = int(text, 16)
    except ValueError:
        pass
    else:
        if address > session.word_mask:
            raise CommandError(f"{text[:40]}: larger than any address")
        return address
    found = session.symbols.find(text)
    if found is not None:
        return found
    if text.startswith("("):
        return evaluate(session, text)
    name, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    base = session.symbols.find(name.strip()) if sign else None
    if base is None:
        raise CommandError("\n".join(not_found(session, text)))
    try:
        delta = int(offset, 0)
    except ValueError:
        raise CommandError(f'not a number: "{offset}"') from None
    return base + delta if sign == "+" else base - delta


def evaluate(session: Session, text: str) -> int:
    """The value of a C expression as an address."""
    from kcrash.values.scope import evaluate as expression

    return int(expression(session, text)) & session.word_mask


def is_user(session: Session, address: int) -> bool:
    """True for an address of user space; where kernel and user have all addresses each (s390x), for one that
    the kernel does not map."""
    paging = session.layout.paging
    if address >= paging.user_end or paging.signed:
        return address < paging.user_end
    try:
        session.memory.translate(address)
    except MemoryFault:
        return True
    return False


def not_found(session: Session, name: str) -> Iterator[str]:
    """The lines that say that there is no such symbol, and which ones come near."""
    yield f"symbol not found: {name}"
    yield "possible alternatives:"
    count = 0
    for count, symbol in enumerate(session.symbols.containing(name) if name else (), 1):
        yield f"  {symbol.address:x} ({symbol.type}) {symbol.name}"
        if count == MAX_ALTERNATIVES:
            yield "  ..."
            return
    if not count:
        yield "  (none found)"


def parse_number(text: str) -> int:
    """A count: decimal, or hexadecimal with 0x. Raises CommandError."""
    try:
        return int(text, 0) if text.lower().startswith("0x") else int(text)
    except ValueError:
        raise CommandError(f"not a valid number: {text}") from None


def describe(error: KcrashError) -> str:
    """The error as the one line a listing shows."""
    return str(error)
