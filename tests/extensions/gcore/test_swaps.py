"""Memory that was swapped out to a device, a file, zswap, beside what the process said of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from kcrash.linux.compressors import Packed
from kcrash.linux.swap import swap
from kcrash.session import Session
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile
from tests.extensions.gcore.peak import PEAK
from tests.lab.swaps import BACKING, DEVICE, FILE, Swaps, require, swaps
from tests.lab.truth import Area
from tests.lab.truth import words as words_of

KERNELS = (
    *((version, "amd64") for version in os.environ.get("KCRASH_LAB_KERNELS", "5.10,6.1,6.12,7.2").split(",")),
    ("5.10", "amd64-full"),  # with zswap, whose pools are zbud, z3fold and zsmalloc
    ("6.1", "amd64-full"),
)
PAGE = 4096


@dataclass
class Case:
    """A dump; cores of its processes are written to ``folder``."""

    made: Swaps
    folder: Path

    @cached_property
    def session(self) -> Session:
        kernel = self.made.kernel
        return kcrash.open(*([str(kernel.vmlinux)] if kernel.arch.debug else []), str(self.made.dump))

    def run(self, line: str) -> tuple[int, str]:
        kept = Kept()
        shell = Shell(self.session, REGISTRY, stdout=lambda: kept)
        if "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        kept.text = ""
        return shell.run(line), kept.text

    def area(self, kind: str) -> Area:
        return next(area for area in self.made.truth.areas if area.kind == kind)

    def core(self, pid: int, options: str = "") -> CoreFile:
        path = self.folder / "core"
        status, text = self.run(f"gcore {options} -o {path} {pid}")
        assert status == 0, text
        return CoreFile(path)

    @property
    def images(self) -> str:
        made = {DEVICE: self.made.device, FILE: self.made.file, BACKING: self.made.backing}
        made |= dict([self.made.packed] if self.made.packed else [])
        return " ".join(f"--swap {name}={path}" for name, path in made.items())


@cache
def _made(version: str, arch: str) -> Swaps:
    """With what the guest said, parsed once."""
    return swaps(version, arch=arch)


@pytest.fixture(params=KERNELS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    version, arch = request.param
    require(version, arch=arch)
    made = Case(_made(version, arch), tmp_path)
    yield made
    made.session.close()


def test_with_what_the_disks_held(case: Case) -> None:
    truth = case.made.truth
    assert truth.complete
    assert not truth.failures
    core = case.core(case.area("device").pid, case.images)
    for area in truth.areas:
        if area.pid == case.area("device").pid:
            assert core.memory(area.start, area.size) == area.content, area.kind
    assert "swapped out" not in core.report["missing"]


def test_without_them_only_disks_are_missing(case: Case) -> None:
    """zram, zswap, the swap cache and pages of zeros (from v6.12 on) are in memory."""
    area = case.area("device")
    core = case.core(area.pid)
    lost = {int(start, 16) + PAGE * n for start, pages, why in core.report["ranges"] for n in range(pages)}
    for kind in ("device", "file", "zram-back"):
        area = case.area(kind)
        pages = range(area.start, area.end, PAGE)
        assert len(lost & set(pages)) > len(pages) // 2, kind
        for page in set(pages) - lost:  # left in the swap cache
            at = page - area.start
            assert core.memory(page, PAGE) == area.content[at : at + PAGE], kind
    for area in case.made.truth.areas:
        if area.kind.startswith("zswap") and area.pid == case.area("device").pid:
            assert core.memory(area.start, area.size) == area.content, area.kind
    zeros = case.area("device-zero")
    in_memory = (
        case.session.types.has("struct swap_info_struct", "zeromap") or case.made.kernel.version == "7.2"
    )
    assert bool(lost & set(range(zeros.start, zeros.end, PAGE))) != in_memory
    for name in (DEVICE, FILE, BACKING):
        assert any(name in problem for problem in core.report["problems"])


def test_every_compressor_of_zram(case: Case) -> None:
    """Those that the guest's kernel offers; most of their pages are on their own device, some on others."""
    made = set(re.findall(r"^ZRAM \d+ (\S+)$", case.made.console, re.MULTILINE))
    wanted = {"lz4", "lz4hc", "zstd", "deflate"}
    if case.made.kernel.version in ("5.10", "6.1"):
        wanted |= {"lzo", "lzo-rle"}
    assert made >= wanted
    areas = [case.area(f"zram-{name}") for name in sorted(made)]
    core = case.core(areas[0].pid, case.images)
    for area in areas:
        assert core.memory(area.start, area.size) == area.content, area.kind
    found = {name for area in swap(case.session).areas() if area.zram for name in [area.zram.compressor()]}
    assert found >= made  # that each was in use


def test_every_pool_of_zswap(case: Case) -> None:
    """Their content is checked with all the others' above: this is that they are all there."""
    made = {area.kind for area in case.made.truth.areas if area.kind.startswith("zswap-")}
    wanted = {"zswap-ramp", "zswap-same"} if case.made.kernel.version == "7.2" else set()
    if case.made.kernel.arch.name == "amd64-full":
        wanted = {f"zswap-{kind}" for kind in ("ramp", "ramp-zbud", "ramp-z3fold", "ramp-zsmalloc", "same")}
    assert made == wanted


def test_what_zram_leaves_compressed_on_its_backing_device(case: Case) -> None:
    """Since v7.0; checked with all the others' content above: this is that pages are there."""
    assert (case.made.packed is not None) == (case.made.kernel.version == "7.2")
    if case.made.packed is not None:
        name, content = case.made.packed
        assert any(content.read_bytes())
        area = case.area("zram-packed-ramp")
        given = " ".join(f"--swap {n}={p}" for n, p in {DEVICE: case.made.device, name: content}.items())
        core = case.core(area.pid, given)
        assert core.memory(area.start, area.size) == area.content


def test_swapped_pages_are_decompressed_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counter[int]()

    def page(self: Packed) -> bytes:
        count[0] += 1
        return expand(self)

    expand = Packed.page
    monkeypatch.setattr(Packed, "page", page)
    core = case.core(case.area("device").pid, case.images)
    swapped = sum(a.size // PAGE for a in case.made.truth.areas if a.pid == case.area("device").pid)
    assert 0 < count[0] <= swapped
    assert core.report["missing"] == {}


def test_the_swap_cache_has_what_another_process_read(case: Case) -> None:
    parent = case.area("device").pid
    area = next(area for area in case.made.truth.areas if area.kind == "cached" and area.pid != parent)
    assert case.core(area.pid).memory(area.start, area.size) == area.content


def test_device_by_its_short_name(case: Case) -> None:
    area = case.area("device")
    core = case.core(area.pid, f"--swap vda={case.made.device}")
    assert core.memory(area.start, area.size) == area.content


def test_images_are_checked(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    pid = case.area("device").pid
    other = case.folder / "other"
    other.write_bytes(bytes(8192))
    cut = case.folder / "cut"
    cut.write_bytes(case.made.device.read_bytes()[: 2 * PAGE])
    for given, message in {
        f"{DEVICE}={case.made.file}": "another swap area",
        f"{DEVICE}={other}": "no swap area with pages of 4096 bytes",
        f"{DEVICE}={case.folder}/none": "No such file",
        f"{DEVICE}={case.folder}": "Is a directory",
        f"/dev/none={case.made.device}": "is no swap area of this machine",
        "x": "bad swap area",
    }.items():
        assert case.run(f"gcore --swap {given} -o {case.folder}/refused {pid}")[0] == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (case.folder / "refused").exists()
    core = case.core(pid, f"--swap {DEVICE}={cut}")
    assert core.report["missing"]["swapped out"] > 16
    assert any("ends before page" in problem for problem in core.report["problems"])


def test_image_of_mkswap(tmp_path: Path) -> None:
    """The header as util-linux writes it."""
    import shutil

    from kcrash.linux.swap_image import SwapImage

    tool = shutil.which("mkswap") or shutil.which("/sbin/mkswap")
    if tool is None:
        pytest.skip("PEER MISSING: mkswap is not installed")
    path = tmp_path / "swap"
    path.write_bytes(bytes(1 << 20))
    for size in (4096, 16384):
        subprocess.run([tool, "-q", "-p", str(size), str(path)], check=True, capture_output=True)
        image = SwapImage(str(path), size, "little")
        assert image.pages == (1 << 20) // size
        assert image.locate(1)().page() == bytes(size)
        with pytest.raises(kcrash.KcrashError):
            image.locate(image.pages)


def test_memory_that_a_large_process_takes(tmp_path: Path) -> None:
    """1 GiB resident, out of a compressed dump: at most 150 MiB, and the pages are those that it filled."""
    require("6.1", resident=1024)
    made = swaps("6.1", resident=1024)
    path = tmp_path / "core"
    words = [sys.executable, "-c", PEAK, "-s", "-x", str(made.kernel.vmlinux), str(made.dump)]
    done = subprocess.run(
        [*words, "-c", f"gcore -o {path} {made.resident}"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 150 << 10
    found = re.search(r"^RESIDENT \d+ 0x([0-9a-f]+)$", made.console, re.MULTILINE)
    assert found is not None
    start, core = int(found[1], 16), CoreFile(path)
    for number in (0, 1, 100000, (1 << 18) - 1):
        half = words_of("mix64", 0, number * PAGE // 8, PAGE // 16)
        assert core.memory(start + number * PAGE, PAGE) == half.ljust(PAGE, b"\0")
