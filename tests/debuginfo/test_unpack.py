"""Compressed carriers, bombs, and boot images."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from kcrash.debuginfo import Cache, unpack_boot_image
from kcrash.debuginfo.unpack import boot_image, unpack
from kcrash.errors import BadFormat, KcrashError
from kcrash.files.unpack import compression
from tests.debuginfo.conftest import PACKERS, Place, leftovers

MIB = 1 << 20
ELF = b"\x7fELF" + os.urandom(300_000)
LAB = Path.home() / ".cache/kcrash/lab/kernels"


@pytest.fixture(params=sorted(PACKERS))
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def packed(path: Path, suffix: str, data: bytes = ELF) -> Path:
    path.write_bytes(PACKERS[suffix](data))
    return path


def bad(path: Path, cache: Cache, words: str, limit: int = 1 << 30) -> None:
    with pytest.raises(KcrashError) as caught:
        unpack(path, cache, limit=limit)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert leftovers(cache) == [] and not list(cache.root.glob("unpacked/*"))


def test_content_not_name_decides(tmp_path: Path, cache: Cache, suffix: str) -> None:
    result = unpack(packed(tmp_path / "vmlinux", suffix), cache)
    assert result is not None and result.read_bytes() == ELF
    assert result.is_relative_to(cache.root) and result.name.endswith("-vmlinux")


def test_plain_file(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "vmlinux.gz").write_bytes(ELF)
    assert unpack(tmp_path / "vmlinux.gz", cache) is None
    assert not cache.root.exists()


def test_streams_in_a_row_and_what_follows(tmp_path: Path, cache: Cache, suffix: str) -> None:
    path = tmp_path / "vmlinux"
    parts = [PACKERS[suffix](part) for part in (ELF[:100], ELF[100:200_000], ELF[200_000:])]
    path.write_bytes(parts[0] + parts[1] + bytes(4) + parts[2] + b"\0\0garbage after it")
    result = unpack(path, cache)
    assert result is not None and result.read_bytes() == ELF


def test_kept_until_the_file_changes(tmp_path: Path, cache: Cache) -> None:
    path = packed(tmp_path / "vmlinux", ".xz")
    first = unpack(path, cache)
    assert first is not None
    times: list[int] = []
    assert unpack(path, cache, progress=lambda *_: times.append(1)) == first
    assert not times
    packed(path, ".xz", ELF[:-1])
    second = unpack(path, cache)
    assert second is not None and second != first and second.read_bytes() == ELF[:-1]


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_cut(tmp_path: Path, cache: Cache, suffix: str, keep: float) -> None:
    path = packed(tmp_path / "vmlinux", suffix)
    os.truncate(path, int(path.stat().st_size * keep))
    bad(path, cache, "stream is cut")


def test_damaged(tmp_path: Path, cache: Cache, suffix: str) -> None:
    path = packed(tmp_path / "vmlinux", suffix, b"\x7fELF" + bytes(range(256)) * 4000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = os.urandom(64)
    path.write_bytes(data)
    if suffix != ".zst":  # whose frames have no checksum unless asked for
        bad(path, cache, "stream")
    path.write_bytes(data[:8] + os.urandom(100_000))
    bad(path, cache, "stream")


def test_not_an_elf_file(tmp_path: Path, cache: Cache, suffix: str) -> None:
    bad(packed(tmp_path / "x", suffix, b"#!/bin/sh\n"), cache, "no ELF file")
    bad(packed(tmp_path / "x", suffix, b""), cache, "to nothing")


def test_bomb(tmp_path: Path, cache: Cache, suffix: str) -> None:
    path = packed(tmp_path / "vmlinux", suffix, b"\x7fELF" + bytes(9 * MIB))
    assert path.stat().st_size < MIB
    bad(path, cache, f"is of more than {5 * MIB} bytes, the limit", 5 * MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_bomb_takes_no_memory(tmp_path: Path, cache: Cache, suffix: str) -> None:
    import subprocess

    path = packed(tmp_path / "vmlinux", suffix, b"\x7fELF" + bytes(120 * MIB))
    program = (
        "import sys, resource; from pathlib import Path; from kcrash.debuginfo import Cache\n"
        "from kcrash.debuginfo.unpack import unpack; from kcrash.errors import KcrashError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: unpack(Path(sys.argv[1]), Cache(sys.argv[2]), limit=110 << 20)\n"
        "except KcrashError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(cache.root)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 80 * 1024


def test_no_room(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "free", lambda self: 64 * MIB + 100_000)
    bad(packed(tmp_path / "vmlinux", ".gz"), cache, "the cache's disk, which has 0 MiB to spare")


def test_codec_that_python_lacks(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "vmlinux.lz4").write_bytes(b"\x04\x22\x4d\x18" + bytes(100))
    bad(tmp_path / "vmlinux.lz4", cache, "is compressed with lz4: unpack it first")


def test_progress(tmp_path: Path, cache: Cache, suffix: str) -> None:
    path = packed(tmp_path / "vmlinux", suffix)
    seen: list[tuple[str, int, int | None]] = []
    unpack(path, cache, progress=lambda *args: seen.append(args))
    assert {(what, total) for what, _, total in seen} == {("unpacking vmlinux", path.stat().st_size)}
    done = [done for _, done, _ in seen]
    assert done == sorted(done) and 0 < done[0] <= done[-1] <= path.stat().st_size


def test_interrupted(tmp_path: Path, cache: Cache) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(packed(tmp_path / "vmlinux", ".gz"), cache, progress=interrupt)
    assert leftovers(cache) == [] and not list(cache.root.glob("unpacked/*"))


# -- boot images


def bzimage(path: Path, payload: bytes, protocol: int = 0x20F, sectors: int = 3) -> Path:
    """An x86 boot image (Documentation/arch/x86/boot.rst) whose payload lies 0x40 behind the setup code."""
    data = bytearray((sectors + 1) * 512 + 0x40)
    data[0x1F1] = sectors
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, protocol)
    struct.pack_into("<II", data, 0x248, 0x40, len(payload) + 4)
    path.write_bytes(data + payload + struct.pack("<I", len(ELF)) + os.urandom(5000))
    return path


def test_kernel_inside_a_boot_image(tmp_path: Path, cache: Cache, suffix: str) -> None:
    path = bzimage(tmp_path / "vmlinuz", PACKERS[suffix](ELF))
    image = boot_image(path)
    assert image is not None and "x86" in image.kind
    assert unpack_boot_image(path, cache).read_bytes() == ELF


@pytest.mark.parametrize(
    ("payload", "protocol", "words"),
    [
        (b"", 0x207, "holds no compressed ELF kernel"),
        (b"what?" * 10, 0x20F, "unknown compression"),
        (b"\x02\x21\x4c\x18" + bytes(50), 0x20F, "lz4"),
        (PACKERS[".gz"](b"x"), 0x20F, "no ELF file"),
    ],
)
def test_boot_image_without_a_kernel_to_have(
    tmp_path: Path, cache: Cache, payload: bytes, protocol: int, words: str
) -> None:
    with pytest.raises(KcrashError, match=words):
        unpack_boot_image(bzimage(tmp_path / "vmlinuz", payload, protocol), cache)
    assert leftovers(cache) == []


def test_payload_beyond_the_end(tmp_path: Path, cache: Cache) -> None:
    path = bzimage(tmp_path / "vmlinuz", PACKERS[".gz"](ELF))
    os.truncate(path, 1000)
    with pytest.raises(BadFormat):
        unpack_boot_image(path, cache)


def test_other_files_are_no_boot_images(tmp_path: Path, place: Place) -> None:
    assert boot_image(place(tmp_path / "vmlinux")) is None
    (tmp_path / "short").write_bytes(b"MZ")
    assert boot_image(tmp_path / "short") is None
    assert compression(b"") is None


@pytest.mark.lab
def test_debians_own_boot_image(cache: Cache) -> None:
    """The kernel inside has the build-id of the vmlinux in the debug package."""
    from kcrash.symbols.elffile import ElfFile

    images = sorted(LAB.glob("6.12-*/boot/vmlinuz-*"))
    if not images:
        pytest.skip("the lab has no 6.12 kernel")
    inside = ElfFile(unpack_boot_image(images[0], cache))
    (vmlinux,) = images[0].parents[1].glob("usr/lib/debug/boot/vmlinux-*")
    assert inside.build_id == ElfFile(vmlinux).build_id
    assert ".BTF" in inside.sections and ".symtab" not in inside.sections
