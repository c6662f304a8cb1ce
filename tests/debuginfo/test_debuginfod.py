"""The client against scripted servers, and against debuginfod itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kcrash.debuginfo import Cache, Finder, Found, NotFound, find_kernel
from kcrash.debuginfo.debuginfod import Settings, read_headers, server_urls, shown
from tests.debuginfo.conftest import OTHER, PACKERS, RELEASE, WANTED, leftovers
from tests.debuginfo.server import Handler, Server

Compiled = Callable[[str, "str | None"], Path]
ASKED = f"/buildid/{WANTED}/debuginfo"


@pytest.fixture
def body(compiled: Compiled) -> bytes:
    return compiled("exec", WANTED).read_bytes()


def ask(cache: Cache, *servers: str, build_id: str = WANTED, **options: Any) -> Found | NotFound:
    return find_kernel(build_id, RELEASE, dirs=(), servers=servers, cache=cache, **options)


def refused(answer: Found | NotFound, *words: str) -> None:
    assert isinstance(answer, NotFound)
    text = str(answer.error())
    assert "\n" not in text and all(word in text for word in words), text


def nothing_kept(cache: Cache) -> None:
    assert leftovers(cache) == []
    assert not list(cache.root.glob("buildid/*"))


# -- what works


def test_fetch(cache: Cache, server: Server, body: bytes) -> None:
    server.sends(body)
    seen: list[tuple[str, int, int | None]] = []
    found = ask(cache, server.url + "/", progress=lambda *args: seen.append(args))
    assert isinstance(found, Found)
    assert found.verified and found.has_dwarf and found.how == f"debuginfod {server.url}"
    assert found.path == cache.fetched(WANTED) and found.path.read_bytes() == body
    assert server.asked == [ASKED] and server.headers[0]["User-Agent"].startswith("kcrash/")
    assert seen[-1] == ("fetching from 127.0.0.1", len(body), len(body))


def test_fetched_once(cache: Cache, server: Server, body: bytes) -> None:
    server.sends(body)
    ask(cache, server.url)
    for servers in ([server.url], []):
        found = ask(cache, *servers)
        assert isinstance(found, Found) and found.how == "fetched earlier"
    assert len(server.asked) == 1


def test_servers_of_the_environment(
    cache: Cache, server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sends(body)
    monkeypatch.setenv("DEBUGINFOD_URLS", f"ima:enforcing  {server.url}\tima:ignore")
    assert isinstance(find_kernel(WANTED, RELEASE, dirs=(), cache=cache), Found)


def test_nothing_is_contacted_without_a_server(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("contacted something"))
    for urls in (None, "", "  ", "ima:enforcing"):
        if urls is not None:
            monkeypatch.setenv("DEBUGINFOD_URLS", urls)
        refused(find_kernel(WANTED, RELEASE, dirs=(), cache=cache), "DEBUGINFOD_URLS names no server")
    assert not cache.root.exists()


def test_no_build_id_no_question(cache: Cache, server: Server) -> None:
    assert not find_kernel(None, RELEASE, dirs=(), servers=[server.url], cache=cache)
    assert server.asked == []


def test_local_file_first(
    tmp_path: Path, cache: Cache, server: Server, body: bytes, compiled: Compiled
) -> None:
    server.sends(body)
    stripped = tmp_path / "vmlinux"
    shutil.copyfile(compiled("stripped", WANTED), stripped)
    found = ask(cache, server.url, given=[stripped])
    assert isinstance(found, Found) and found.path == stripped and server.asked == []
    found = ask(cache, server.url, given=[stripped], want_dwarf=True)
    assert isinstance(found, Found) and found.has_dwarf and server.asked == [ASKED]


def test_modules(cache: Cache, server: Server, compiled: Compiled) -> None:
    server.sends(compiled("module", WANTED).read_bytes())
    finder = Finder.make(dirs=(), servers=[server.url], cache=cache)
    assert isinstance(finder.find_module("x", WANTED, RELEASE), Found)


@pytest.mark.parametrize(("encoding", "suffix"), [("gzip", ".gz"), ("x-gzip", ".gz"), ("zstd", ".zst")])
def test_encoded(cache: Cache, server: Server, body: bytes, encoding: str, suffix: str) -> None:
    server.sends(PACKERS[suffix](body), Content_Encoding=encoding)
    found = ask(cache, server.url)
    assert isinstance(found, Found) and found.path.read_bytes() == body
    assert "gzip" in server.headers[0]["Accept-Encoding"]


def test_chunked_and_without_length(cache: Cache, server: Server, body: bytes) -> None:
    def chunked(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        for part in (body[:1000], body[1000:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    def until_closed(handler: Handler) -> None:
        handler.head(200, X_DEBUGINFOD_SIZE=len(body), Connection="close")
        handler.wfile.write(body)

    for answer in (chunked, until_closed):
        server.answers(answer)
        assert isinstance(ask(cache, server.url), Found)
        cache.fetched(WANTED).unlink()


def test_server_that_keeps_the_line_open(cache: Cache, server: Server, body: bytes) -> None:
    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(body))
        handler.wfile.write(body)
        handler.wfile.flush()
        server.stop.wait(20)

    server.answers(answer)
    begun = time.monotonic()
    assert isinstance(ask(cache, server.url), Found)
    assert time.monotonic() - begun < 10


# -- what fails, and the next server


def not_found(handler: Handler) -> None:
    handler.head(404, Content_Length=0)


def error_page(handler: Handler) -> None:
    handler.head(503, Content_Length=0)


def forbidden(handler: Handler) -> None:
    handler.send_response(403, "\x1b[31mevil")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")


def hang_up(handler: Handler) -> None:
    handler.connection.close()


def empty(handler: Handler) -> None:
    handler.head(200, Content_Length=0)


def cut(handler: Handler) -> None:
    handler.head(200, Content_Length=5000)
    handler.wfile.write(b"\x7fELF" + bytes(996))


def cut_chunk(handler: Handler) -> None:
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"fff\r\n" + bytes(100))


def page(handler: Handler) -> None:
    handler.head(200, Content_Length=6)
    handler.wfile.write(b"<html>")


def strange_encoding(handler: Handler) -> None:
    handler.head(200, Content_Length=5, Content_Encoding="br\x1b[1m")
    handler.wfile.write(b"hello")


def false_gzip(handler: Handler) -> None:
    handler.head(200, Content_Length=5, Content_Encoding="gzip")
    handler.wfile.write(b"hello")


def huge(handler: Handler) -> None:
    handler.head(200, Content_Length=1 << 50)


def to_a_file(handler: Handler) -> None:
    handler.head(302, Location="file:///etc/passwd", Content_Length=0)


def to_ftp(handler: Handler) -> None:
    handler.head(302, Location="ftp://example.org/x", Content_Length=0)


def in_a_circle(handler: Handler) -> None:
    handler.head(302, Location=handler.path, Content_Length=0)


FAILURES = [
    (not_found, "does not have it"),
    (error_page, "answers 503 Service Unavailable"),
    (forbidden, "answers 403 Forbidden"),
    (no_http, "cannot be reached: "),
    (hang_up, "cannot be reached: "),
    (empty, "its answer is empty"),
    (cut, "its answer was cut: 1000 of 5000 bytes"),
    (cut_chunk, "its answer stopped after"),
    (page, "its answer is not the file: not an ELF file"),
    (strange_encoding, "unknown encoding 'br?[1m'"),
    (false_gzip, "bad gzip stream"),
    (huge, "larger than"),
    (to_a_file, "answers 302 Found"),
    (to_ftp, "redirects to ftp://example.org/x"),
    (in_a_circle, "answers 302 Found"),
]


@pytest.mark.parametrize(("answer", "reason"), FAILURES)
def test_failure_is_told_and_the_next_server_asked(
    cache: Cache, server: Server, body: bytes, answer: Callable[[Handler], None], reason: str
) -> None:
    server.answers(answer)
    refused(ask(cache, server.url), f"debuginfod {server.url}: ", reason)
    nothing_kept(cache)
    with Server() as second:
        second.sends(body)
        found = ask(cache, server.url, second.url)
        assert isinstance(found, Found) and second.url in found.how
        assert server.url in found.tried[0].place


def test_another_build(cache: Cache, server: Server, compiled: Compiled) -> None:
    server.sends(compiled("exec", OTHER).read_bytes())
    refused(ask(cache, server.url), f"build-id {OTHER}, wanted {WANTED}")
    nothing_kept(cache)


def test_nobody_listens(cache: Cache) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        refused(ask(cache, url), f"debuginfod {url}: cannot be reached: Connection refused")
    nothing_kept(cache)


@pytest.mark.parametrize(
    "url", ["ftp://x/", "file:///usr/lib/debug", "localhost", "http://", "http://a:b/", "/x"]
)
def test_no_address_of_a_server(cache: Cache, url: str) -> None:
    refused(ask(cache, url), "address")


def test_dead_server_is_asked_once(cache: Cache, server: Server) -> None:
    server.answers(hang_up)
    finder = Finder.make(dirs=(), servers=[server.url], cache=cache)
    assert not finder.find_kernel(WANTED, RELEASE)
    refused(finder.find_module("x", OTHER, RELEASE), "cannot be reached")
    assert len(server.asked) == 1


def test_silent_server(cache: Cache, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_TIMEOUT", "0.5")

    def silence(_: Handler) -> None:
        server.stop.wait(20)

    server.answers(silence)
    refused(ask(cache, server.url), "cannot be reached: nothing came for 0.5 s")


def test_server_that_falls_silent(cache: Cache, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_TIMEOUT", "0.5")
    server.drips(bytes(5000), 1000, 20)
    refused(ask(cache, server.url), "stopped after 1000 bytes: nothing came for 0.5 s")
    nothing_kept(cache)


def test_slow_server(cache: Cache, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_TIMEOUT", "1")
    server.drips(bytes(10_000), 10, 0.1)
    refused(ask(cache, server.url), "is too slow: ", "bytes in 1 s")
    nothing_kept(cache)


def test_time_bound(cache: Cache, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_MAXTIME", "0.5")
    server.drips(bytes(10_000), 10, 0.1)
    refused(ask(cache, server.url), "took longer than 0.5 s")
    nothing_kept(cache)


def test_size_bound(cache: Cache, server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_MAXSIZE", "1000")
    server.answers(lambda handler: handler.head(406, Content_Length=0))
    refused(ask(cache, server.url), "more than DEBUGINFOD_MAXSIZE, 1000 bytes")
    assert server.headers[0]["X-Debuginfod-Maxsize"] == "1000"
    server.sends(body)
    refused(ask(cache, server.url), "larger than 1000 bytes")
    server.sends(PACKERS[".gz"](b"\x7fELF" + bytes(1 << 20))[:990], Content_Encoding="gzip")
    refused(ask(cache, server.url), "larger than 1000 bytes")
    nothing_kept(cache)


def test_no_room(cache: Cache, server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server.sends(body)
    monkeypatch.setattr(Cache, "free", lambda self: 64 << 20)
    refused(ask(cache, server.url), "does not fit on the cache's disk")
    nothing_kept(cache)


def test_cache_that_cannot_be_written(tmp_path: Path, server: Server, body: bytes) -> None:
    server.sends(body)
    (tmp_path / "file").touch()
    refused(ask(Cache(tmp_path / "file"), server.url), f"cache folder {tmp_path / 'file'}: ")


# -- negative results


def test_miss_is_remembered_for_a_while(cache: Cache, server: Server, body: bytes) -> None:
    refused(ask(cache, server.url), "does not have it")
    server.sends(body)
    refused(ask(cache, server.url), "did not have it a few minutes ago")
    assert len(server.asked) == 1
    os.utime(cache.root / "missing" / WANTED, (0, 0))
    assert isinstance(ask(cache, server.url), Found)


def test_miss_of_one_server_is_not_another_s(cache: Cache, server: Server, body: bytes) -> None:
    ask(cache, server.url)
    with Server() as second:
        second.sends(body)
        assert isinstance(ask(cache, server.url, second.url), Found)
    assert len(server.asked) == 1


def test_trouble_is_no_miss(cache: Cache, server: Server, body: bytes) -> None:
    server.answers(error_page)
    ask(cache, server.url)
    server.sends(body)
    assert isinstance(ask(cache, server.url), Found)


def test_damaged_entry_is_fetched_again(cache: Cache, server: Server, body: bytes) -> None:
    server.sends(body)
    ask(cache, server.url)
    os.truncate(cache.fetched(WANTED), 100)
    found = ask(cache, server.url)
    assert isinstance(found, Found) and found.path.read_bytes() == body


# -- secrets


def test_name_and_password(cache: Cache, server: Server) -> None:
    url = server.url.replace("//", "//me:s%3Acret@")
    answer = ask(cache, url)
    assert server.headers[0]["Authorization"] == "Basic bWU6czpjcmV0"
    assert "cret" not in str(answer) and server.url in str(answer)
    assert "cret" not in "".join(path.read_text() for path in cache.root.glob("missing/*"))


def test_headers_file_and_redirects(
    tmp_path: Path, cache: Cache, server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "headers"
    path.write_bytes(b"X-Token: hush\r\n# no header\nX-Two:  a b \nBad Name: x\nX-Evil: a\x00b\n")
    monkeypatch.setenv("DEBUGINFOD_HEADERS_FILE", str(path))
    assert read_headers(str(path), lambda *_: None) == {"X-Token": "hush", "X-Two": "a b"}
    with Server() as elsewhere:
        elsewhere.sends(body)
        location = elsewhere.url + ASKED
        server.answers(lambda handler: handler.head(302, Location=location, Content_Length=0))
        assert isinstance(ask(cache, server.url), Found)
        assert server.headers[0]["X-Token"] == "hush"
        assert "X-Token" not in elsewhere.headers[0] and "User-Agent" in elsewhere.headers[0]


def test_headers_file_that_is_not_there(
    cache: Cache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUGINFOD_HEADERS_FILE", "/nonexistent")
    refused(ask(cache, server.url), "DEBUGINFOD_HEADERS_FILE /nonexistent: No such file", "does not have it")


# -- the environment


def test_settings() -> None:
    settings = Settings.from_environment(
        {
            "DEBUGINFOD_URLS": "https://a/ http://b https://a",
            "DEBUGINFOD_TIMEOUT": "7",
            "DEBUGINFOD_MAXTIME": "-1",
            "DEBUGINFOD_MAXSIZE": "1000000",
            "DEBUGINFOD_HEADERS_FILE": "/x",
        }
    )
    assert settings == Settings(("https://a", "http://b"), 7.0, None, 1000000, "/x")
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"DEBUGINFOD_TIMEOUT": "0"}).timeout is None
    assert (
        Settings.from_environment({"DEBUGINFOD_TIMEOUT": "soon", "DEBUGINFOD_MAXSIZE": "nan"}) == Settings()
    )
    assert server_urls(["ima:permissive"]) == ()
    assert shown("http://u:p@h:1/x") == "http://h:1/x"
    assert "p@" not in shown("http://[u:p@h") and "\x1b" not in shown("http://h/\x1b")


def test_the_rest_of_the_program_needs_no_http() -> None:
    program = (
        "import sys, kcrash.debuginfo as d\n"
        "d.find_kernel('ab' * 20, '6.1', dirs=(), servers=())\n"
        "sys.exit(bool({'urllib.request', 'http.client', 'ssl', 'zstandard', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- several processes, and sudden ends

FETCHER = """
import sys
from kcrash.debuginfo import Cache, find_kernel
def report(what, done, total):
    print(what, flush=True)
cache, servers = Cache(sys.argv[1]), [sys.argv[2]]
found = find_kernel("ab" * 20, "6.1", dirs=(), servers=servers, cache=cache, progress=report)
sys.exit(not found)
"""


def fetcher(cache: Cache, server: Server) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, cache.root, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_fetch_once(cache: Cache, server: Server, body: bytes) -> None:
    pytest.importorskip("fcntl")
    server.drips(body, len(body) // 5, 0.2)
    with fetcher(cache, server) as one, fetcher(cache, server) as two:
        texts = [process.communicate(timeout=30)[0] for process in (one, two)]
    assert one.returncode == two.returncode == 0
    assert server.asked == [ASKED]
    assert sum("another process does" in text for text in texts) == 1
    assert cache.fetched(WANTED).read_bytes() == body and leftovers(cache) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ended_midway(cache: Cache, server: Server, body: bytes, sent: signal.Signals) -> None:
    server.drips(body, 100, 0.2)
    with fetcher(cache, server) as process:
        assert process.stdout and "fetching" in process.stdout.readline()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -sent
    assert not cache.fetched(WANTED).exists()
    if sent == signal.SIGINT:
        assert "KeyboardInterrupt" in errors and leftovers(cache) == []
    server.sends(body)
    assert isinstance(ask(cache, server.url), Found)


def test_progress_may_stop_it(cache: Cache, server: Server, body: bytes) -> None:
    server.sends(body)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(cache, server.url, progress=stop)
    nothing_kept(cache)


# -- the real thing


@pytest.fixture
def daemon(tmp_path: Path, compiled: Compiled) -> Iterator[str]:
    """elfutils' debuginfod over a folder with one kernel and one module."""
    program = shutil.which("debuginfod")
    if program is None:
        pytest.skip("debuginfod is not installed")
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copyfile(compiled("exec", WANTED), folder / "vmlinux")
    shutil.copyfile(compiled("module", OTHER), folder / "x.ko")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-F", "-p", str(port), "-d", ":memory:", "-t0", "-c2", str(folder)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        _wait_for(f"127.0.0.1:{port}", tmp_path / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, log: Path) -> None:
    from urllib.request import urlopen

    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with urlopen(f"http://{address}/metrics") as answer:
                if b'scanned_files_total{source=".so"}' in answer.read() or "scanned" in log.read_text():
                    return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"debuginfod does not scan: {log.read_text()[-500:]}")


def test_debuginfod_itself(cache: Cache, daemon: str, compiled: Compiled) -> None:
    until = time.monotonic() + 20
    while True:  # it answers before it has scanned
        found = ask(cache, daemon)
        if found or time.monotonic() > until:
            break
        shutil.rmtree(cache.root / "missing")
        time.sleep(0.2)
    assert isinstance(found, Found) and found.verified, found
    assert found.path.read_bytes() == compiled("exec", WANTED).read_bytes()
    module = Finder.make(dirs=(), servers=[daemon], cache=cache).find_module("x", OTHER, RELEASE)
    assert isinstance(module, Found) and module.has_dwarf
    refused(ask(cache, daemon, build_id="12" * 20), f"debuginfod {daemon}: does not have it")
