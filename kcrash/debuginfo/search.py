"""The search: what is given, then the usual places, then debuginfod servers; judged by build-id.

A file of another build is passed over, and remembered with its build-id, so that the error can tell. A file
without DWARF (a stripped vmlinux may still have symbols and BTF) is taken only if no place on this machine
has one with it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kcrash.debuginfo import places
from kcrash.debuginfo.debuginfod import Client, settings_for
from kcrash.debuginfo.unpack import boot_image, is_plain, unpack
from kcrash.errors import BadFormat, KcrashError, MismatchError
from kcrash.files.cache import Cache
from kcrash.files.unpack import Progress, compression
from kcrash.symbols.elffile import ET_CORE, ET_DYN, ET_EXEC, ET_REL, SHT_NOBITS, ElfFile

#: The trees that are searched if none are named: this machine.
DEFAULT_DIRS: tuple[Path, ...] = (Path("/"),)
AnyPath = str | os.PathLike[str]


class Tried(NamedTuple):
    """A place that had something, or should have had, and why it was not taken."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Found:
    """A file with debuginfo.

    ``path``: the ELF file to open, in the cache if it was fetched or unpacked; ``how``: where it comes
    from, in words; ``build_id``: its own; ``verified``: whether that is the one wanted (False also if none
    was);
    ``has_dwarf``: whether it has .debug_info; ``tried``: what was passed over on the way.
    """

    path: Path
    how: str
    build_id: str | None
    verified: bool
    has_dwarf: bool
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True, slots=True)
class NotFound:
    """No file. ``what``: was looked for; ``mismatch``: files of another build were there. Is false."""

    what: str
    build_id: str | None
    tried: tuple[Tried, ...]
    mismatch: bool
    asked_servers: bool

    def __bool__(self) -> bool:
        return False

    def error(self) -> KcrashError:
        """The exception to raise, one line: a MismatchError if only files of another build were there."""
        wanted = f" with build-id {self.build_id}" if self.build_id else ""
        tried = "; ".join(map(str, self.tried[:_SHOWN])) or "nothing in the usual places"
        more = f"; and {len(self.tried) - _SHOWN} more" if len(self.tried) > _SHOWN else ""
        hint = "" if self.asked_servers else " (DEBUGINFOD_URLS names no server to ask)"
        kind = MismatchError if self.mismatch else KcrashError
        return kind(f"no {self.what}{wanted}: {tried}{more}{hint}")


_SHOWN = 6


@dataclass
class Finder:
    """Finds kernels and modules; keep one for a session: it remembers listings and dead servers.

    ``dirs``: trees to search (kcrash.debuginfo.places); ``client``: of debuginfod servers.
    """

    dirs: Sequence[AnyPath]
    cache: Cache
    client: Client
    progress: Progress | None = None
    _indexes: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        *,
        dirs: Sequence[AnyPath] = DEFAULT_DIRS,
        servers: Sequence[str] | None = None,
        cache: Cache | None = None,
        progress: Progress | None = None,
    ) -> Finder:
        """A Finder. ``servers``: None for those of $DEBUGINFOD_URLS, () for none at all."""
        cache = cache or Cache()
        return cls(dirs, cache, Client(settings_for(servers), cache), progress)

    def find_kernel(
        self,
        build_id: str | None,
        release: str,
        *,
        given: Sequence[AnyPath] = (),
        force: bool = False,
        want_dwarf: bool = False,
    ) -> Found | NotFound:
        """The vmlinux of a kernel.

        ``build_id``: in hex, None if not known: then the release decides, and nothing is verified;
        ``release``: as uname -r says, "" if not known; ``given``: files and folders to look at first;
        ``force``: take a file of another build; ``want_dwarf``: ask servers rather than take one without.
        """
        hunt = _Hunt(self, f"vmlinux of kernel {_quoted(release)}", build_id, (ET_EXEC, ET_DYN), force)
        release = release if places.is_release(release) else ""
        return hunt.run(self._kernel_places(hunt.wanted, release, given), want_dwarf)

    def find_module(
        self,
        name: str,
        build_id: str | None,
        release: str,
        *,
        given: Sequence[AnyPath] = (),
        force: bool = False,
        want_dwarf: bool = False,
    ) -> Found | NotFound:
        """The file of a module, "-" and "_" in ``name`` being the same; the rest as for ``find_kernel``."""
        hunt = _Hunt(self, f"file of module {_quoted(name)}", build_id, (ET_REL,), force)
        release = release if places.is_release(release) else ""
        return hunt.run(self._module_places(places.module_key(name), hunt.wanted, release, given), want_dwarf)

    # -- places, in the order in which they are looked at

    def _kernel_places(self, wanted: str | None, release: str, given: Sequence[AnyPath]) -> Iterator[_Place]:
        for item in map(Path, given):
            if not item.is_dir():
                yield _Place(item, "given", explicit=True)
                continue
            yield from self._by_build_id([item], wanted, f"in {item}")
            for name in (*places.kernel_names(release), *places.direct_names(release)):
                yield _Place(item / name, f"in {item}")
            for path in places.kernels_below(item):
                if wanted or release in str(path):  # nothing but its name tells whose it is
                    yield _Place(path, f"in {item}")
        yield from self._by_build_id(self.dirs, wanted, "build-id folder")
        for tree in map(Path, self.dirs):
            yield from (_Place(tree / name, "usual place") for name in places.kernel_names(release))
        yield from self._fetched(wanted)

    def _module_places(
        self, name: str, wanted: str | None, release: str, given: Sequence[AnyPath]
    ) -> Iterator[_Place]:
        for item in map(Path, given):
            if not item.is_dir():
                yield _Place(item, "given", explicit=True)
                continue
            yield from self._by_build_id([item], wanted, f"in {item}")
            yield from (_Place(path, f"in {item}") for path in self._in_tree(item, name, release))
            below = self._index(item).get(name, ())
            for path in sorted(below, key=lambda path: release not in str(path)):
                yield _Place(path, f"in {item}")
        yield from self._by_build_id(self.dirs, wanted, "build-id folder")
        for tree in map(Path, self.dirs):
            yield from (_Place(path, "usual place") for path in self._in_tree(tree, name, release))
        yield from self._fetched(wanted)

    def _by_build_id(self, trees: Sequence[AnyPath], wanted: str | None, how: str) -> Iterator[_Place]:
        for tree in trees if wanted else ():
            yield from (_Place(Path(tree) / name, how) for name in places.build_id_names(wanted or ""))

    def _fetched(self, wanted: str | None) -> Iterator[_Place]:
        """What this program or elfutils' client fetched earlier."""
        if wanted:
            kept = self.cache.fetched(wanted)
            if self.cache.lookup(kept) is not None:
                yield _Place(kept, "fetched earlier")
            for folder in places.client_caches():
                yield _Place(
                    folder / wanted / "debuginfo", "fetched earlier by debuginfod's client", quiet=True
                )

    def _in_tree(self, tree: Path, name: str, release: str) -> Iterator[Path]:
        bases = places.module_bases(tree, release)
        listed = [path for base in bases if (path := places.modules_dep(base).get(name))]
        for base in bases:
            for path in listed:
                yield from (base / form for form in places.module_names(path))
        for base in bases:
            yield from self._index(base).get(name, ())

    def _index(self, base: Path) -> dict[str, list[Path]]:
        if base not in self._indexes:
            self._indexes[base] = places.modules_below(base)
        return self._indexes[base]


class _Place(NamedTuple):
    """A file to look at. ``explicit``: the user named it; ``quiet``: what is wrong there is not told."""

    path: Path
    how: str
    explicit: bool = False
    quiet: bool = False


class _Image(NamedTuple):
    build_id: str | None
    has_dwarf: bool


class _Hunt:
    """One search: what is wanted, what was tried, what would do if nothing better comes."""

    def __init__(
        self, finder: Finder, what: str, build_id: str | None, types: tuple[int, ...], force: bool
    ) -> None:
        self.finder = finder
        self.what = what
        self.types = types
        self.force = force
        self.tried: list[Tried] = []
        self.wanted = build_id.lower() if build_id else None
        if self.wanted is not None and not re.fullmatch("[0-9a-f]{4,128}", self.wanted):
            self.note(_quoted(self.wanted), "is no build-id: nothing can be verified")
            self.wanted = None
        self._seen: set[tuple[int, int]] = set()
        self._lesser: Found | None = None
        self._other: Found | None = None

    def note(self, place: str, reason: str) -> None:
        """Remember why a place was passed over."""
        self.tried.append(Tried(place, reason))

    def run(self, candidates: Iterator[_Place], want_dwarf: bool) -> Found | NotFound:
        """Look at the candidates, then ask servers."""
        for place in candidates:
            found = self._look(place)
            if found is not None:
                return self._done(found)
        fetched = self._fetch() if want_dwarf or self._lesser is None else None
        last = fetched or self._lesser or (self._other if self.force else None)
        if last is not None:
            return self._done(last)
        asked = bool(self.finder.client.settings.urls)
        return NotFound(self.what, self.wanted, tuple(self.tried), self._other is not None, asked)

    def _done(self, found: Found) -> Found:
        return Found(
            found.path, found.how, found.build_id, found.verified, found.has_dwarf, tuple(self.tried)
        )

    # -- files

    def _look(self, place: _Place) -> Found | None:
        """The file at a place if it is the best there can be; else it is remembered."""
        try:
            if not self._is_new_file(place):
                return None
            path = self._plain(place.path)
            return self._judge(place, path, self._examine(path))
        except (KcrashError, OSError, ValueError) as error:
            if not place.quiet:
                self.note(str(place.path), _reason(error))
            return None

    def _is_new_file(self, place: _Place) -> bool:
        try:
            status = place.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if place.explicit:
                raise
            return False
        if not stat.S_ISREG(status.st_mode):
            if place.explicit:
                raise KcrashError("is no regular file")
            return False
        key = status.st_dev, status.st_ino
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _plain(self, path: Path) -> Path:
        """The ELF file itself, unpacked if need be."""
        if is_plain(path):
            return path
        unpacked = unpack(path, self.finder.cache, progress=self.finder.progress)
        if unpacked is not None:
            return unpacked
        image = boot_image(path)
        if image is not None:
            raise KcrashError(f"is {image.kind}, which has no debuginfo: its vmlinux is needed")
        raise KcrashError("is no ELF file")

    def _examine(self, path: Path) -> _Image:
        try:
            elf = ElfFile(path)
            if elf.type not in self.types:
                raise BadFormat(str(path), f"is {_TYPES.get(elf.type, 'another kind of ELF file')}")
            debug = (elf.sections.get(name) for name in (".debug_info", ".zdebug_info"))
            return _Image(elf.build_id, any(section and section.type != SHT_NOBITS for section in debug))
        except BadFormat:
            if path.is_relative_to(self.finder.cache.root):
                self.finder.cache.drop(path)
            raise

    def _judge(self, place: _Place, path: Path, image: _Image) -> Found | None:
        how = place.how if path == place.path else f"{place.how}, unpacked from {place.path}"
        same = image.build_id == self.wanted
        found = Found(path, how, image.build_id, same and self.wanted is not None, image.has_dwarf)
        if self.wanted is None or same:
            if image.has_dwarf:
                return found
            self._lesser = self._lesser or found
        elif image.build_id is None and place.explicit:
            self._lesser = self._lesser or found
        else:
            self.note(str(place.path), self._mismatch(image))
            self._other = self._other or found
            return found if self.force and place.explicit else None
        return None

    def _mismatch(self, image: _Image) -> str:
        return f"build-id {image.build_id or 'none'}, wanted {self.wanted}"

    # -- servers

    def _fetch(self) -> Found | None:
        if self.wanted is None:
            return None

        def check(path: Path) -> str | None:
            try:
                image = self._examine(path)
            except (KcrashError, OSError) as error:
                return _reason(error)
            return None if image.build_id == self.wanted else self._mismatch(image)

        def note(server: str, reason: str) -> None:
            self.note(f"debuginfod {server}", reason)

        try:
            answer = self.finder.client.fetch(self.wanted, check, note, self.finder.progress)
            if answer is None:
                return None
            path, server = answer
            return Found(path, f"debuginfod {server}", self.wanted, True, self._examine(path).has_dwarf)
        except (KcrashError, OSError) as error:
            self.note("debuginfod", str(error))
            return None


_TYPES = {
    ET_REL: "an object file or module",
    ET_CORE: "a core file",
    ET_EXEC: "a program",
    ET_DYN: "a program",
}


def _reason(error: Exception) -> str:
    """What is wrong, without the file's name."""
    if isinstance(error, BadFormat):
        return error.what
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _quoted(text: str) -> str:
    """A word out of the dump, fit for one line."""
    return text if places.is_release(text) else repr(text[:100])


def may_hold_kernel(path: AnyPath) -> bool:
    """Whether an argument is to be ``given`` to ``find_kernel`` rather than opened as a dump.

    True for folders, ELF files that are neither cores nor objects, compressed files and boot images. Raises
    OSError.
    """
    path = Path(path)
    if path.is_dir():
        return True
    if not path.is_file():
        path.stat()
        return False
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"\x7fELF"):
        try:
            return ElfFile(path).type not in (ET_CORE, ET_REL)
        except BadFormat:
            return False
    return compression(head) is not None or boot_image(path) is not None


def find_kernel(
    build_id: str | None,
    release: str,
    *,
    given: Sequence[AnyPath] = (),
    dirs: Sequence[AnyPath] = DEFAULT_DIRS,
    servers: Sequence[str] | None = None,
    cache: Cache | None = None,
    progress: Progress | None = None,
    force: bool = False,
    want_dwarf: bool = False,
) -> Found | NotFound:
    """``Finder.find_kernel`` once."""
    finder = Finder.make(dirs=dirs, servers=servers, cache=cache, progress=progress)
    return finder.find_kernel(build_id, release, given=given, force=force, want_dwarf=want_dwarf)


def find_module(
    name: str,
    build_id: str | None,
    release: str,
    *,
    given: Sequence[AnyPath] = (),
    dirs: Sequence[AnyPath] = DEFAULT_DIRS,
    servers: Sequence[str] | None = None,
    cache: Cache | None = None,
    progress: Progress | None = None,
    force: bool = False,
    want_dwarf: bool = False,
) -> Found | NotFound:
    """``Finder.find_module`` once."""
    finder = Finder.make(dirs=dirs, servers=servers, cache=cache, progress=progress)
    return finder.find_module(name, build_id, release, given=given, force=force, want_dwarf=want_dwarf)
