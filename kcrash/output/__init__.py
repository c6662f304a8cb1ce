"""Typed items to terminal text or JSON lines. Only this package knows about terminals and JSON.

Commands import the items from here (or from `kcrash.commands.base`):
`Table`, `Column`, `Record`, `Text`, `Fault`, `Address`.
"""

from kcrash.output.items import Address, Align, Column, Fault, Formatter, Item, Record, Row, Table, Text

__all__ = ["Address", "Align", "Column", "Fault", "Formatter", "Item", "Record", "Row", "Table", "Text"]
