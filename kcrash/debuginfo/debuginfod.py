"""A client of debuginfod servers: debuginfo by build-id over HTTP (debuginfod(8), "WEBAPI").

The environment variables are those of elfutils' client (debuginfod-client-config(7)): DEBUGINFOD_URLS,
_TIMEOUT, _MAXTIME, _MAXSIZE, _HEADERS_FILE. Nothing is contacted while no server is named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from kcrash.errors import BadFormat, KcrashError
from kcrash.files.cache import Cache, Writer, server_key
from kcrash.files.unpack import MAX_UNPACKED, SPARE, Progress, chunks, too_big
from kcrash.version import VERSION

if TYPE_CHECKING:
    from urllib.request import BaseHandler, OpenerDirector

#: Seconds in which a server must send SLOWEST bytes.
DEFAULT_TIMEOUT = 90.0
SLOWEST = 100 * 1024
_READ = 1 << 18
_ENCODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}

#: Says of a file what is wrong with it, None if it is the one wanted.
Check = Callable[[Path], "str | None"]
#: Takes a server (or its part of the environment) and why it gave nothing.
Note = Callable[[str, str], None]


class ServerFault(KcrashError):
    """A server did not give the file; the next one may."""


class NotThere(ServerFault):
    """A server does not have the file, and says so."""


@dataclass(frozen=True)
class Settings:
    """How to fetch.

    ``urls``: servers, tried in order; ``timeout``: seconds in which 100 KiB must come, ``max_time``: for
    a whole file, None for no bound; ``max_size``: bytes of a file; ``headers_file``: has "Name: value"
    lines to send.
    """

    urls: tuple[str, ...] = ()
    timeout: float | None = DEFAULT_TIMEOUT
    max_time: float | None = None
    max_size: int | None = None
    headers_file: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """What the DEBUGINFOD_ variables say. A number that is none counts as not given."""
        env = os.environ if environ is None else environ
        size = _number(env.get("DEBUGINFOD_MAXSIZE"), 0)
        return cls(
            urls=server_urls(env.get("DEBUGINFOD_URLS", "").split()),
            timeout=_number(env.get("DEBUGINFOD_TIMEOUT"), DEFAULT_TIMEOUT),
            max_time=_number(env.get("DEBUGINFOD_MAXTIME"), 0),
            max_size=None if size is None else int(size),
            headers_file=env.get("DEBUGINFOD_HEADERS_FILE") or None,
        )


def server_urls(words: Sequence[str]) -> tuple[str, ...]:
    """The servers among the words of DEBUGINFOD_URLS, each once ("ima:" words set a policy of elfutils)."""
    return tuple(dict.fromkeys(word.rstrip("/") for word in words if not word.startswith("ima:")))


def _number(text: str | None, default: float) -> float | None:
    """A positive number of the environment; None for zero and less, which mean "no bound"."""
    try:
        value = float(text) if text else default
    except ValueError:
        value = default
    return value if 0 < value < 1e15 else None


@dataclass
class Client:
    """Fetches by build-id into a cache. A server that cannot be reached is not asked again."""

    settings: Settings
    cache: Cache
    _down: dict[str, str] = field(default_factory=dict)

    def fetch(
        self, build_id: str, check: Check, note: Note, progress: Progress | None = None
    ) -> tuple[Path, str] | None:
        """The file of a build-id and the server (or "the cache") that gave it, None if nobody did.

        ``check`` judges what came, before it gets its name in the cache. Why a server gave nothing goes to
        ``note``. Raises KcrashError if the cache cannot be written; what ``progress`` raises leaves no file.
        """
        if not self.settings.urls:
            return None
        what = f"fetching debuginfo of build-id {build_id[:16]}"
        waiting = (lambda: progress(f"{what} (another process does)", 0, None)) if progress else None
        target = self.cache.fetched(build_id)
        with self.cache.lock(target, waiting):
            if self._cached(target, check):
                return target, "the cache"
            return self._ask_all(build_id, check, note, progress)

    def _cached(self, target: Path, check: Check) -> bool:
        found = self.cache.lookup(target)
        if found is not None and check(found) is not None:
            self.cache.drop(found)
            return False
        return found is not None

    def _ask_all(
        self, build_id: str, check: Check, note: Note, progress: Progress | None
    ) -> tuple[Path, str] | None:
        missing = self.cache.missing(build_id)
        said_no = set(missing)
        try:
            for url in self.settings.urls:
                reason = self._skip(url, missing)
                if reason is None:
                    try:
                        return self._ask(url, build_id, check, note, progress), shown(url)
                    except ServerFault as error:
                        reason = str(error)
                        if isinstance(error, NotThere):
                            said_no.add(server_key(url))
                note(shown(url), reason)
        finally:
            if said_no - missing:
                self.cache.note_missing(build_id, frozenset(said_no))
        return None

    def _skip(self, url: str, missing: frozenset[str]) -> str | None:
        """Why not to ask this server, None if it should be."""
        if server_key(url) in missing:
            return "did not have it a few minutes ago"
        return self._down.get(url)

    def _ask(self, url: str, build_id: str, check: Check, note: Note, progress: Progress | None) -> Path:
        request = _Request(url, build_id, self.settings, progress, note)
        with self.cache.writing(self.cache.fetched(build_id)) as writer:
            try:
                request.send()
            except _Unreachable as error:
                self._down[url] = str(error)
                raise
            with request:
                request.receive(writer, self.cache.free() - SPARE)
            wrong = check(writer.flush())
            if wrong is not None:
                raise ServerFault(f"its answer is not the file: {wrong}")
            return writer.keep()


class _Unreachable(ServerFault):
    """A server that it is no use to ask again."""


class _Request:
    """One GET, and its answer as a stream."""

    def __init__(
        self, url: str, build_id: str, settings: Settings, progress: Progress | None, note: Note
    ) -> None:
        self.url = url
        self.settings = settings
        self._build_id = build_id
        self._progress = progress
        self._note = note
        self._response: Any = None
        self._begun = self._window = monotonic()
        self.done = self._in_window = 0

    def __enter__(self) -> _Request:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    # -- the question

    def send(self) -> None:
        """Ask, and read the answer's head. Raises ServerFault."""
        from urllib.error import HTTPError
        from urllib.request import Request

        parts = _split(self.url)
        address = f"{plain_url(self.url)}/buildid/{self._build_id}/debuginfo"
        request = Request(address, headers=self._headers(parts))  # noqa: S310 (http and https only: _split)
        try:
            self._response = _opener().open(request, timeout=self.settings.timeout)
        except HTTPError as error:
            error.close()
            raise self._refused(error.code) from None
        except _network_errors() as error:
            raise _Unreachable(self._failure(error, "cannot be reached")) from None

    def _headers(self, parts: Any) -> dict[str, str]:
        headers = {"User-Agent": f"kcrash/{VERSION}", "Accept-Encoding": "zstd, gzip"}
        if self.settings.max_size is not None:
            headers["X-DEBUGINFOD-MAXSIZE"] = str(self.settings.max_size)
        if parts.username is not None:
            import base64

            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        if self.settings.headers_file:
            headers.update(read_headers(self.settings.headers_file, self._note))
        return headers

    def _refused(self, code: int) -> ServerFault:
        if code == HTTPStatus.NOT_FOUND:
            return NotThere("does not have it")
        if code == HTTPStatus.NOT_ACCEPTABLE and self.settings.max_size is not None:
            return ServerFault(f"has a file of more than DEBUGINFOD_MAXSIZE, {self.settings.max_size} bytes")
        try:
            phrase = HTTPStatus(code).phrase  # not the server's own words: they may be anything
        except ValueError:
            phrase = "?"
        return ServerFault(f"answers {code} {phrase}")

    def _failure(self, error: BaseException, what: str) -> str:
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else error
        if isinstance(inner, TimeoutError):
            return f"{what}: nothing came for {self.settings.timeout or 0:g} s"
        text = (inner.strerror if isinstance(inner, OSError) else None) or str(reason or inner)
        return f"{what}: {_clean(text)}"

    # -- the answer

    def receive(self, writer: Writer, room: int) -> None:
        """Write the answer's body, decoded. Raises ServerFault, and KcrashError if it cannot be written."""
        encoding = self._header("Content-Encoding").strip().lower()
        if encoding not in _ENCODINGS:
            raise ServerFault(f"answers in the unknown encoding {_clean(encoding)!r}")
        limit = self.settings.max_size or MAX_UNPACKED
        self._begun = self._window = monotonic()
        self._refuse_size(max(self._length() or 0, self._real_size() or 0), room, limit)
        codec = _ENCODINGS[encoding]
        try:
            for data in chunks(codec, self, "its answer") if codec else iter(lambda: self.read(_READ), b""):
                self._refuse_size(writer.size + len(data), room, limit)
                writer.write(data)
        except BadFormat as error:
            raise ServerFault(str(error)) from None
        if not writer.size:
            raise ServerFault("its answer is empty")

    def _refuse_size(self, size: int, room: int, limit: int) -> None:
        if size > limit:
            raise ServerFault(f"its file is larger than {limit} bytes, the limit")
        if size > room:
            raise too_big("the file", room, limit)

    def _header(self, name: str) -> str:
        return str(self._response.headers.get(name) or "")

    def _length(self) -> int | None:
        """Bytes that the body has on the wire."""
        text = self._header("Content-Length")
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None

    def _real_size(self) -> int | None:
        """Bytes of the file, as debuginfod tells them."""
        text = self._header("X-DEBUGINFOD-SIZE")
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes of the body, none at its end. Raises ServerFault."""
        length = self._length()
        wanted = _READ if size < 0 else size
        if length is not None:
            wanted = min(wanted, length - self.done)
        if wanted <= 0:
            return b""
        try:
            data: bytes = self._response.read1(wanted)
        except _network_errors() as error:
            raise ServerFault(self._failure(error, f"its answer stopped after {self.done} bytes")) from None
        if not data and length is not None:
            raise ServerFault(f"its answer was cut: {self.done} of {length} bytes")
        self._count(len(data))
        return data

    def _count(self, size: int) -> None:
        self.done += size
        self._in_window += size
        if self._progress is not None:
            total = self._length() or self._real_size()
            self._progress(f"fetching from {urlsplit(self.url).hostname}", self.done, total)
        self._check_pace(monotonic())

    def _check_pace(self, now: float) -> None:
        """As elfutils: too slow is less than 100 KiB in the time of the timeout."""
        most, timeout = self.settings.max_time, self.settings.timeout
        if most is not None and now - self._begun > most:
            raise ServerFault(f"took longer than {most:g} s, the bound for a file")
        if timeout is not None and now - self._window > timeout:
            if self._in_window < SLOWEST:
                raise ServerFault(f"is too slow: {self._in_window} bytes in {timeout:g} s")
            self._window, self._in_window = now, 0


def _network_errors() -> tuple[type[Exception], ...]:
    from http.client import HTTPException

    return (OSError, HTTPException, ValueError)


def _clean(text: str) -> str:
    """A word of someone else's, fit for one line."""
    return "".join(char if char.isprintable() else "?" for char in text)[:120]


# -- addresses


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _Unreachable("is no address of a server") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Unreachable("is no http or https address")
    return parts


def plain_url(url: str) -> str:
    """A server's address without a user's name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shown(url: str) -> str:
    """A server's address as messages show it."""
    try:
        return _clean(plain_url(url))
    except ValueError:
        return _clean(url.rpartition("@")[2])


def read_headers(path: str, note: Note) -> dict[str, str]:
    """The "Name: value" lines of a DEBUGINFOD_HEADERS_FILE; other lines are ignored."""
    try:
        text = Path(path).expanduser().read_text("latin-1")
    except OSError as error:
        note(f"DEBUGINFOD_HEADERS_FILE {path}", error.strerror or str(error))
        return {}
    lines = (re.fullmatch(r"([^:\s]+):\s*([ -~\t]*[!-~])\s*", line) for line in text.splitlines()[:1000])
    return {line[1]: line[2] for line in lines if line}


def _opener() -> OpenerDirector:
    """urllib's opener for http and https alone; proxies as the environment names them."""
    from urllib import request

    class Redirects(request.HTTPRedirectHandler):
        """Secrets stay with the server they are for, and https stays https."""

        def redirect_request(
            self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
        ) -> request.Request | None:
            old, new = urlsplit(req.full_url), urlsplit(newurl)
            if new.scheme != "https" and (old.scheme == "https" or new.scheme != "http"):
                raise ServerFault(f"redirects to {shown(newurl)}")
            made = super().redirect_request(req, fp, code, msg, headers, newurl)
            if made is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
                kept = ("user-agent", "accept-encoding", "x-debuginfod-maxsize")
                made.headers = {name: made.headers[name] for name in made.headers if name.lower() in kept}
            return made

    opener = request.OpenerDirector()
    kinds = [request.ProxyHandler, request.HTTPDefaultErrorHandler, Redirects, request.HTTPErrorProcessor]
    for kind in (*kinds, request.HTTPHandler, *_https_handlers()):
        opener.add_handler(kind())
    return opener


def _https_handlers() -> list[type[BaseHandler]]:
    """Empty in a Python without ssl."""
    from urllib import request

    return [request.HTTPSHandler] if hasattr(request, "HTTPSHandler") else []


def settings_for(servers: Sequence[str] | None) -> Settings:
    """The environment's settings, with these servers instead of its own unless None."""
    settings = Settings.from_environment()
    return settings if servers is None else replace(settings, urls=server_urls(servers))
