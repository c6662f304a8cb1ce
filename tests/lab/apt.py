"""A private apt root a suite: packages of any suite, the machine's own sources left alone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """The Debian mirror this machine's apt is set up for."""
    wanted = (
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    )
    for line in _output(wanted).splitlines():
        uri, release, component = line.split(" ")
        if component == "main" and not re.search(r"[-/]", release):
            return uri
    raise LookupError("apt's sources name no Debian mirror (a suite's component main)")


def _output(argv: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} {argv[-1]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Suite:
    """One suite's packages for one architecture, for this machine's needs only: nothing is installed."""

    name: str
    arch: str = "amd64"

    @property
    def folder(self) -> Path:
        return cache.root() / "apt" / (self.name if self.arch == "amd64" else f"{self.name}-{self.arch}")

    def _options(self) -> list[str]:
        at = self.folder
        pairs = {
            "Dir::State": at / "state",
            "Dir::State::status": at / "status",
            "Dir::Cache": at / "cache",
            "Dir::Etc::sourcelist": at / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "0",
            "Acquire::Languages": "none",
        }
        return [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]

    def _apt(self, tool: str, *words: str) -> str:
        return self._locked([tool, *self._options(), *words])

    def _locked(self, argv: Sequence[str], folder: Path | None = None) -> str:
        """apt does not wait for its locks: one process at a time in a suite's root."""
        with cache.locked(f"apt-{self.name}"):
            return _output(argv, folder)

    def update(self) -> None:
        """Fetches the package lists anew."""
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(self._source())
        (self.folder / "status").write_text("")
        self._apt("apt-get", "update")

    def _source(self) -> str:
        signed = f" signed-by={KEYRING}" if KEYRING.exists() else ""
        return f"deb [arch={self.arch}{signed}] {mirror()} {self.name} main\n"

    def depends(self, package: str) -> list[str]:
        """Names a package depends on, as its record gives them."""
        text = self._apt("apt-cache", "depends", package)
        return re.findall(r"^\s*\|?Depends: (\S+)$", text, re.MULTILINE)

    def version(self, package: str) -> str:
        """The version the suite has, LookupError when it has none."""
        found = re.search(r"^Version: (\S+)$", self._apt("apt-cache", "show", package), re.MULTILINE)
        if not found:
            raise LookupError(f"{self.name} has no {package}")
        return found[1]

    def fetch(self, packages: Iterable[str], into: Path) -> list[Path]:
        """These packages alone, as .deb files in a folder."""
        into.mkdir(parents=True, exist_ok=True)
        self._locked(["apt-get", *self._options(), "download", *packages], into)
        return sorted(into.glob("*.deb"))

    def fetch_all(self, packages: Iterable[str], into: Path) -> list[Path]:
        """These packages and all they depend on, as .deb files in a folder."""
        (into / "partial").mkdir(parents=True, exist_ok=True)
        self._apt("apt-get", "-o", f"Dir::Cache::archives={into}", "-yd", "install", *packages)
        return sorted(into.glob("*.deb"))


def unpack(package: Path, into: Path, *patterns: str) -> None:
    """A package's files (those that match a pattern, when there are any) without its scripts."""
    into.mkdir(parents=True, exist_ok=True)
    chosen = ["--wildcards", *patterns] if patterns else []
    tar = ["tar", "-x", "-C", str(into), "--keep-directory-symlink", "--no-same-owner", *chosen]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as source:
        done = subprocess.run(tar, stdin=source.stdout, capture_output=True, text=True, check=False)
    # A pattern that matches nothing is an error to tar; packages differ, so it is none here.
    if source.returncode or (done.returncode and not patterns):
        raise RuntimeError(f"cannot unpack {package.name}: {done.stderr.strip()[-500:]}")
