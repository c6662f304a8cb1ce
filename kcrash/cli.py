"""The command line of kcrash: options, then one command, a script, or the shell.

Exit status: 0 only if every command succeeded, 1 if one failed or nothing
could be opened, 130 on Ctrl-C; a reader of the standard output that goes
away ends the program with SIGPIPE, as it does other programs.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.commands import REGISTRY
from kcrash.commands._arguments import Arguments, Declaration, Exclusive, Flag, Option, Rest, number
from kcrash.commands._shell import INTERRUPTED, Exit, Shell
from kcrash.commands._words import Word
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.output.progress import Progress
from kcrash.output.streams import OutputClosed, Stdout
from kcrash.output.terminal import error_line

if TYPE_CHECKING:
    from kcrash.session import Session

# What crash has to be told and kcrash finds out by itself: scripts go on working.
NOT_NEEDED = (
    *("--smp", "--active", "--less", "--more", "--CRASHPAGER", "--readnow", "--no_panic", "--no_strip"),
    *("--no_ikconfig", "--no_data_debug", "--no_kmem_cache", "--kmem_cache_delay", "--no_elf_notes", "-S"),
)
NOT_NEEDED_VALUES = ("-m,--machdep", "--cpus", "--kaslr", "--reloc", "-p", "-g", "--src")

OPTIONS = Declaration(
    [
        Flag("-h,--help", "show this, or the page of a command: -h ps", name="help"),
        Flag("-v,--version", "show the version", name="version"),
        Flag("-s", "be silent: no banner, no paging", name="silent"),
        Option("-c", "command", "run a command, then leave; may be repeated", name="commands", repeat=True),
        Option("-i", "file", "run the commands of a file first", name="input", repeat=True),
        Option("-d", "level", "debug level", name="debug", parse=number, default=0),
        Option("-e", "vi|emacs", "line editing mode", name="edit"),
        Flag("-x", "load all extensions that are found", name="extensions"),
        Flag("-f,--force", "use a vmlinux of another build all the same", name="force"),
        Flag("--json,-j", "every command prints JSON lines", name="json_lines"),
        Flag("--minimal", "only commands that need little: dis eval exit extend help log q rd set sym"),
        Flag("--no_scroll", "no pager"),
        Flag("--no_modules", "leave out the symbols of modules"),
        Flag("--no_crashrc", "do not read .kcrashrc"),
        Flag("--zero_excluded,--zero-excluded", "read pages excluded from the dump as zeroes"),
        Exclusive(Flag("--hex", "print integers in hexadecimal"), Flag("--dec", "print integers in decimal")),
        Option("--mod", "dir", "look for module object files here; may be repeated", repeat=True),
        Option("--offline", "show|hide", "show or hide offline CPUs"),
        Option("--osrelease", "dump", "print the kernel release of a dump, then leave"),
        Option("--build-id", "dump", "print the build-id of a dump's kernel, then leave"),
        Option("--log", "dump", "print the kernel log of a dump, then leave"),
        *(Flag(names, "accepted, and not needed", hidden=True) for names in NOT_NEEDED),
        *(Option(names, "value", "accepted, and not needed", hidden=True) for names in NOT_NEEDED_VALUES),
        Rest("files", "vmlinux and dump, in any order", "file"),
    ]
)
USAGE = "kcrash [options] [VMLINUX] [VMCORE]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run kcrash with ``argv`` (without the program's name); the exit status."""
    _open_streams()
    _end_cleanly()
    try:
        args = _options(sys.argv[1:] if argv is None else argv)
        status = _run(args)
        sys.stdout.flush()
        return status
    except UsageError as error:
        error_line(f'kcrash: {error}\nUsage: {USAGE}\nEnter "kcrash -h" for details.')
    except (KcrashError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _die_of_pipe()
        error_line(f"kcrash: {_reason(error)}")
    except OutputClosed:
        return _die_of_pipe()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _bug(error)
    return 1


def _open_streams() -> None:
    """A stream that was closed when we were started is /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _end_cleanly() -> None:
    """Told to end, or left by its terminal, the program removes what is half-written."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)


def _options(argv: Sequence[str]) -> Arguments:
    # "--json" is every command's own option to the parser: give ours another spelling.
    words = [Word("-j" if text == "--json" else text) for text in argv]
    return OPTIONS.parse(words, "")


def _reason(error: KcrashError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _bug(error: Exception) -> int:
    if os.environ.get("KCRASH_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    error_line(f"kcrash: internal error: {type(error).__name__}: {error} (KCRASH_TRACEBACK=1 shows where)")
    return 1


def _die_of_pipe() -> int:
    """End as a program does whose output nobody reads."""
    with open(os.devnull, "w") as null:  # noqa: PTH123
        os.dup2(null.fileno(), sys.stdout.fileno())
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    return 141


def _run(args: Arguments) -> int:
    if args.debug:
        os.environ["KCRASH_TRACEBACK"] = "1"
    if args.version:
        return _print(_version())
    if args.help:
        return _help(args.files)
    for wanted, what in ((args.osrelease, "osrelease"), (args.build_id, "build_id")):
        if wanted is not None:
            return _print(_from_note(wanted, what))
    return _with_session(args)


def _print(text: str) -> int:
    out = Stdout()
    out.write(text + "\n")
    return out.close()


def _version() -> str:
    from kcrash.version import VERSION

    return f"kcrash {VERSION}"


def _help(topics: Sequence[str]) -> int:
    if topics:
        shell = Shell(None, REGISTRY)
        return max(shell.run(f"help {topic}") for topic in topics)
    from kcrash.commands.help import argument_lines

    lines = [
        "Usage:",
        f"  {USAGE}",
        "",
        "Open the dump of a crashed Linux kernel and answer questions about it.",
        "",
        *argument_lines(OPTIONS, 24),
    ]
    return _print("\n".join(lines))


def _from_note(path: str, what: str) -> str:
    """A line of the VMCOREINFO note; "unknown" and a failure if the dump does not tell."""
    from kcrash.dump import open_dump
    from kcrash.dump.vmcoreinfo import parse_vmcoreinfo

    dump = open_dump([path])
    try:
        raw = dump.info.vmcoreinfo
        found = getattr(parse_vmcoreinfo(raw), what, None) if raw else None
    finally:
        dump.close()
    if not found:
        raise CommandError(f"{path}: unknown")
    return str(found)


def _with_session(args: Arguments) -> int:
    session = _open(args)
    try:
        _warn_if_cut(session)
        return _shell(args, session)
    except Exit:
        return 0
    finally:
        session.close()


def _open(args: Arguments) -> Session:
    from kcrash.session import Options, open_session

    files = [*args.files, *([args.log] if args.log else [])]
    return open_session(
        files,
        Options(
            progress=_Progresses(),
            notice=lambda text: error_line(f"kcrash: {text}"),
            force=args.force,
            zero_excluded=args.zero_excluded,
            module_dirs=args.mod,
            load_modules=not (args.no_modules or args.minimal),
        ),
    )


class _Progresses:
    """A progress line for each slow task of opening, told by name and absolute numbers."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.what != what:
            if self._bar is not None:
                self._bar.clear()
            self._bar = Progress(what, total or None)
        self._bar.advance(done - self._bar.done)
        if total and done >= total:
            self._bar.clear()


def _warn_if_cut(session: Session) -> None:
    """A dump that lost its end shows fewer tasks, and says nothing of it: so we do."""
    if session.dump.missing:
        error_line(f"kcrash: {session.dump.path}: the dump is incomplete: {session.dump.missing}")
    elif session.dump.cut:
        error_line(
            f"kcrash: {session.dump.path}: the dump is incomplete: its file ends before its data do, "
            "and lists may lack what was there"
        )


def _shell(args: Arguments, session: Session) -> int:
    interactive = not args.commands and args.log is None and sys.stdin.isatty()
    shell = Shell(session, REGISTRY, interactive=interactive, minimal=args.minimal)
    _apply(args, shell)
    status = Status()
    try:
        status.add(_start(args, shell, interactive))
        if args.log is not None:
            status.add(shell.run("log"))
        elif args.commands:
            status.add(shell.run_lines(args.commands))
        elif interactive:
            from kcrash.repl import Repl

            Repl(shell).run(status.add)
        else:
            status.add(shell.run_lines(_script()))
    except Exit:
        pass
    return max(status.worst, shell.worst)


class Status:
    """The worst of several exit statuses."""

    def __init__(self) -> None:
        self.worst = 0

    def add(self, status: int) -> None:
        """Take one more into account."""
        self.worst = max(self.worst, status)


def _script() -> Sequence[str]:
    return sys.stdin.read().splitlines()


def _apply(args: Arguments, shell: Shell) -> None:
    settings = shell.settings
    settings.debug, settings.silent, settings.json = args.debug, args.silent, args.json_lines
    settings.scroll = not (args.no_scroll or args.silent)
    settings.zero_excluded = args.zero_excluded
    settings.namelist, settings.dumpfile = shell.context.session.kernel_name, shell.context.session.dump.path
    if args.hex:
        settings.radix = 16
    for name in ("edit", "offline"):
        value = getattr(args, name)
        if value is not None:
            settings.assign(name, value)
    if args.extensions:
        for name, _ in shell.context.extensions.available():
            shell.context.extensions.load(name)


def _start(args: Arguments, shell: Shell, interactive: bool) -> int:
    worst = 0
    for file in () if args.no_crashrc else startup_files():
        worst = max(worst, shell.run_startup(str(file)))
    if interactive and not args.silent:
        _print(_version() + "\n")
        shell.run("sys")
        _print("")
    for path in args.input:
        worst = max(worst, shell.run(f'< "{path}"' if " " in path else f"< {path}"))
    return worst


def startup_files() -> list[Path]:
    """The ``.kcrashrc`` of the home and of the current directory that can be trusted, each once."""
    found: list[Path] = []
    for folder in (Path.home(), Path.cwd()):
        path = (folder / ".kcrashrc").resolve()
        if path.is_file() and path not in found:
            if _trusted(path):
                found.append(path)
            else:
                error_line(f"kcrash: {path}: not read: it is not yours, or others can write to it")
    return found


def _trusted(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH
