"""Extensions: modules of commands that `extend` loads and unloads.

A name is looked for in ``kcrash/extensions/``, then among the installed
packages' entry points of the group ``kcrash.extensions``; a path is a Python
file. Importing the module registers its commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CommandError

if TYPE_CHECKING:
    from kcrash.commands import Registry

GROUP = "kcrash.extensions"


class Extension(NamedTuple):
    """A loaded extension: the name or path it was asked for by, its module, where it is, its commands."""

    name: str
    module: str
    file: str
    commands: tuple[str, ...]


class Extensions:
    """The extensions loaded into a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loaded: dict[str, Extension] = {}

    def __iter__(self) -> Iterator[Extension]:
        return iter(self._loaded.values())

    def load(self, name: str) -> Extension:
        """Import an extension; CommandError if there is none, it fails, or it has no commands."""
        if name in self._loaded:
            raise CommandError(f"{name}: already loaded")
        before = set(self._registry.names(hidden=True))
        module = self._import(name)
        commands = sorted(set(self._registry.names(hidden=True)) - before)
        if not commands:
            self._forget(module)
            raise CommandError(f"{name}: no commands registered: extension unloaded")
        made = Extension(name, module, str(getattr(sys.modules[module], "__file__", "")), tuple(commands))
        self._loaded[name] = made
        return made

    def unload(self, name: str) -> Extension:
        """Forget an extension and its commands."""
        found = self._loaded.pop(name, None)
        if found is None:
            raise CommandError(f"{name}: not loaded")
        self._forget(found.module)
        return found

    def available(self) -> list[tuple[str, str]]:
        """Names that `load` knows, with the module of each."""
        found = dict(_entry_points())
        folder = Path(__file__).parent.parent / "extensions"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and (path / "__init__.py").is_file():
                found[path.name] = f"kcrash.extensions.{path.name}"
        return sorted(found.items())

    def _import(self, name: str) -> str:
        path = Path(name).expanduser() if name.endswith(".py") or "/" in name else None
        module = f"kcrash_extension_{path.stem}" if path else _module_of(name)
        try:
            if path:
                _import_file(path, module)
            else:
                import_module(module)
        except Exception as error:
            self._forget(module)
            if isinstance(error, CommandError):
                raise
            raise CommandError(f"{name}: {type(error).__name__}: {error}") from error
        return module

    def _forget(self, module: str) -> None:
        self._registry.remove(module)
        for name in [m for m in sys.modules if m == module or m.startswith(module + ".")]:
            del sys.modules[name]


def _module_of(name: str) -> str:
    from importlib.util import find_spec

    if name.isidentifier() and find_spec("kcrash.extensions") and find_spec(f"kcrash.extensions.{name}"):
        return f"kcrash.extensions.{name}"
    for known, module in _entry_points():
        if known == name:
            return module
    raise CommandError(f"{name}: no such extension")


def _entry_points() -> Iterator[tuple[str, str]]:
    from importlib.metadata import entry_points

    return ((point.name, point.module) for point in entry_points(group=GROUP))


def _import_file(path: Path, name: str) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path}: not a Python file")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
