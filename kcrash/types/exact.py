"""Types for showing: as exact as the debuginfo there is.

BTF is quick and says all that the layout needs, but pahole flattens arrays of
arrays (``char x[2][4]`` is ``char x[8]``), and ``[]`` and ``[0]`` are the same to it.
Where a type or its values are shown, DWARF's description comes first if there is any.
"""

from __future__ import annotations

from kcrash.types.btf import BtfSource
from kcrash.types.declarations import DeclarationSource
from kcrash.types.model import EnumType, Type
from kcrash.types.namespace import Types


class ExactTypes(Types):
    """The same sources as ``types``, DWARF first where looks matter."""

    def __init__(self, types: Types) -> None:
        super().__init__(types.byte_order, types.pointer_size)
        self.base = types
        self.modules, self.kernel = types.modules, types.kernel
        self.quick = [source for source in types.sources if isinstance(source, BtfSource)]
        self.sources = sorted(types.sources, key=lambda s: isinstance(s, BtfSource | DeclarationSource))
        others = sum(not isinstance(source, BtfSource | DeclarationSource) for source in types.sources)
        #: BTF has all types of the kernel: what it does not know is not looked for in the kernel's DWARF.
        self.complete = bool(self.quick) and others <= 1

    def find(self, kind: str, name: str) -> Type | None:
        """See Types.find(); what no source knows may be known elsewhere."""
        found = self._known(kind, name)
        if found is None and kind != "base" and self.base.elsewhere is not None:
            return self.base.elsewhere(kind, name)
        return found

    def _known(self, kind: str, name: str) -> Type | None:
        if self.complete:
            known = (source.find(kind, name) for source in self.quick)
            found = next((type_ for type_ in known if type_ is not None), None)
            if found is None or kind == "base":
                return found
        return super().find(kind, name)

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """See Types.enumerator(): they look alike in all sources."""
        if self.complete:
            found = (source.enumerator(name) for source in self.quick)
            return next((pair for pair in found if pair is not None), None)
        return self.base.enumerator(name)

    def function(self, name: str, module: str = "") -> Type | None:
        """See Types.function(): they look alike in all sources."""
        return self.base.function(name, module)
