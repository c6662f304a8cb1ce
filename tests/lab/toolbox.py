"""The toolbox: QEMU, crash, makedumpfile, gdb and kexec of Debian sid in a root of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import apt, cache
from tests.lab.architectures import AMD64, Architecture

SUITE = "sid"
PACKAGES = (
    "qemu-system-x86",
    "crash",
    "makedumpfile",
    "kexec-tools",
    "busybox-static",
    "gdb",
    "binutils",
    "libc-bin",
    "bash",
    "dash",
    "coreutils",
    "grep",
    "sed",
    "gawk",
    "less",
    "procps",
    "zstd",
)

# In a mount namespace of its own: a fresh root with the toolbox's /usr and /etc, this machine's /dev and
# /proc, and every path of the list where it is outside. All of it goes when the command ends. A path that is
# there already is left alone: making its mount point would empty the file.
_ENTER = """
set -e
t=$1 list=$2; shift 2
mount -t tmpfs lab "$t/mnt"; cd "$t/mnt"
mkdir usr etc var dev proc sys tmp root run; chmod 1777 tmp
for d in bin sbin lib lib64; do ln -s usr/$d $d; done
for d in usr etc; do mount --bind "$t/$d" $d; done
for d in dev proc sys; do mount --rbind /$d $d; done
printf '%s' "$list" | while read -r b; do
  [ -e ".$b" ] && continue
  if [ -d "$b" ]; then mkdir -p ".$b"; else mkdir -p ".${b%/*}"; : >".$b"; fi
  mount --bind "$b" ".$b"
done
exec chroot . "$@"
"""


@dataclass(frozen=True)
class Toolbox:
    """A root folder with the tools; commands run in it as in a chroot that sees the files it is given."""

    root: Path

    def command(self, argv: Sequence[str | Path], binds: Iterable[Path] = ()) -> list[str]:
        """The argv that runs argv inside. Existing absolute paths among the words are bound by themselves."""
        words = [str(word) for word in argv]
        seen = _bound([*map(str, binds), *words[1:]])
        list_ = "".join(f"{path}\n" for path in seen)
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", *user, "sh", "-c", _ENTER, "sh", str(self.root), list_, *words]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        binds: Iterable[Path] = (),
        input: str | None = None,
        timeout: float | None = 600,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, output captured as text; subprocess.TimeoutExpired after timeout seconds."""
        full = self.command(argv, binds)
        stdin = subprocess.PIPE if input is not None else subprocess.DEVNULL
        with _group(full, stdin, env) as process:
            out, err = process.communicate(input, timeout)
        return subprocess.CompletedProcess(full, process.returncode, out, err)

    def crash(self, vmlinux: Path, vmcore: Path, commands: Iterable[str], timeout: float = 600) -> str:
        """What crash prints (both streams) for the commands, one a line, on a dump.

        It is kept beside the dump: the same crash on the same files says the same again.
        """
        script = "".join(f"{line}\n" for line in (*commands, "quit"))
        key = cache.digest(self.root.name, str(vmlinux), _stamp(vmlinux), _stamp(vmcore), script, time.tzname)
        kept = vmcore.parent / "crash" / f"{vmcore.name}-{key}"
        if kept.exists():
            return kept.read_text(errors="replace")
        done = self.run(["crash", "-s", vmlinux, vmcore], input=script, timeout=timeout)
        said = done.stdout + done.stderr
        if done.returncode >= 0 and vmcore.is_relative_to(cache.root()):
            kept.parent.mkdir(exist_ok=True)
            part = kept.with_name(f"{kept.name}{cache.PART}{os.getpid()}")
            part.write_text(said)
            part.rename(kept)
        return said


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _bound(words: Iterable[str]) -> list[Path]:
    """Existing absolute paths outside the system folders, without those inside another of them."""
    system = ("/usr/", "/etc/", "/bin/", "/sbin/", "/lib", "/dev/", "/proc/", "/sys/")
    named = {Path(word) for word in words if word.startswith("/") and not word.startswith(system)}
    paths = {path for path in named if path.exists() and path != Path("/")}
    return sorted(path for path in paths if paths.isdisjoint(path.parents))


@contextlib.contextmanager
def _group(argv: list[str], stdin: int, env: dict[str, str] | None) -> Iterator[subprocess.Popen[str]]:
    """A process group of its own, killed as a whole when left early."""
    pipe = subprocess.PIPE
    inside = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "TERM": "dumb",
        "LC_ALL": "C",
        **(env or {}),
    }
    with subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        env=inside,
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            kill_group(process.pid)
            raise


def kill_group(pid: int) -> None:
    """Ends a process started with start_new_session and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def toolbox(arch: Architecture = AMD64) -> Toolbox:
    """The tools for an architecture, made when missing (about a minute, 90 MB to download)."""
    packages = (*PACKAGES, *arch.packages)
    name = f"toolbox-{cache.digest(SUITE, packages, _ENTER)}"
    return Toolbox(cache.keep(name, lambda root: _make(root, packages)))


def guest_root(arch: Architecture) -> Path:
    """A folder with the programs that run in the guests, made when missing."""
    if not arch.cross:
        return toolbox().root
    packages = guest_packages(arch)
    name = f"guest-tools-{arch.debian}-{cache.digest(SUITE, packages)}"
    return cache.keep(name, lambda root: _unpack_guests(root, arch, packages))


def _unpack_guests(root: Path, arch: Architecture, packages: Sequence[str]) -> None:
    _unpack_all(root, apt.Suite(SUITE, arch.debian), packages)
    if arch.multiarch and (root / "usr/lib" / arch.multiarch).exists():
        (root / "usr/lib" / arch.gnu).symlink_to(arch.multiarch)


def guest_packages(arch: Architecture) -> tuple[str, ...]:
    """What guests run that this machine cannot."""
    return ("busybox-static", *(("kexec-tools", "makedumpfile") if arch.capture else ()))


# QEMU's name for the programs of an architecture.
EMULATORS = {"armhf": "arm"}


def foreign_crash(arch: Architecture) -> list[str]:
    """The words that run crash of an architecture, in QEMU's user mode; fetched when missing."""
    name = f"crash-{arch.debian}-{cache.digest(SUITE, 'qemu-user-static')}"
    root = cache.keep(name, lambda part: _unpack_crash(part, arch))
    emulator = root / "emulator/usr/bin" / f"qemu-{EMULATORS.get(arch.debian, arch.debian)}-static"
    return [str(emulator), "-L", str(root), str(program(root, "crash"))]


def _unpack_crash(root: Path, arch: Architecture) -> None:
    _unpack_all(root, apt.Suite(SUITE, arch.debian), ("crash",))
    (root / "lib").symlink_to("usr/lib")
    emulator = apt.Suite("bookworm")
    emulator.update()
    for package in emulator.fetch(["qemu-user-static"], root / "debs"):
        apt.unpack(package, root / "emulator")
    cache.remove(root / "debs")


def program(root: Path, name: str) -> Path:
    """A program below a root folder."""
    for folder in ("usr/bin", "usr/sbin"):
        if (root / folder / name).exists():
            return root / folder / name
    raise LookupError(f"{root.name} has no {name}")


def _make(root: Path, packages: Sequence[str]) -> None:
    _unpack_all(root, apt.Suite(SUITE), packages)
    settle(root)


def _unpack_all(root: Path, suite: apt.Suite, names: Sequence[str]) -> None:
    suite.update()
    debs = root / "debs"
    packages = suite.fetch_all(names, debs)
    for package in packages:
        apt.unpack(package, root)
    (root / "packages").write_text("".join(f"{package.stem}\n" for package in packages))
    cache.remove(debs)


def settle(root: Path) -> None:
    """What the packages' scripts would have done, as far as it is needed."""
    (root / "mnt").mkdir(exist_ok=True)
    shell = root / "usr/bin/sh"
    if not shell.exists():
        shell.symlink_to("dash")
    awk = root / "usr/bin/awk"
    if not awk.exists():
        awk.symlink_to("gawk")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    if Toolbox(root).run(["/usr/sbin/ldconfig"]).returncode:
        raise RuntimeError("the toolbox does not run: ldconfig failed in it")


def versions(box: Toolbox) -> str:
    """The packages the toolbox is made of, a line each."""
    return (box.root / "packages").read_text()
