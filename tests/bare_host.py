"""kcrash on a host that has nothing of POSIX's: ``python -m tests.bare_host ARGUMENTS`` (see test_hosts.py).

Modules and functions that Python has on Unix alone are taken away before kcrash is imported.
"""

from __future__ import annotations

import os
import signal
import sys

MODULES = ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "readline", "syslog")
OF_OS = (
    *("pread", "preadv", "geteuid", "getuid", "getgid", "fork", "killpg", "sched_getaffinity", "fchmod"),
    *(
        "posix_fallocate",
        "chown",
        "mkfifo",
        "getloadavg",
        "statvfs",
        "O_CLOEXEC",
        "O_NOFOLLOW",
        "O_DIRECTORY",
    ),
    *("SEEK_HOLE", "SEEK_DATA"),
)
SIGNALS = ("SIGHUP", "SIGPIPE", "SIGWINCH", "SIGQUIT", "SIGKILL", "SIGTSTP", "SIGCONT", "SIGUSR1")


def main() -> int:
    """Take it all away, and go on as kcrash."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, SIGNALS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    from kcrash.cli import main as kcrash

    return kcrash(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
