"""What is given, the usual places of the distributions, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kcrash.debuginfo import Cache, Finder, Found, NotFound, find_kernel, find_module, may_hold_kernel
from kcrash.errors import KcrashError, MismatchError
from tests.debuginfo.conftest import OTHER, RELEASE, WANTED, Place

BUILD_ID_FILE = f"{WANTED[:2]}/{WANTED[2:]}"
KERNEL_PLACES = [
    f"usr/lib/debug/boot/vmlinux-{RELEASE}",  # Debian to 12, Ubuntu
    f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux",  # Debian 13, Fedora, RHEL
    f"usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux",
    f"usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux.debug",  # SUSE since usr-merge
    f"usr/lib/debug/boot/vmlinux-{RELEASE}.debug",  # SUSE before it
    f"boot/vmlinux-{RELEASE}",
    f"boot/vmlinux-{RELEASE}.xz",
    f"boot/vmlinux-{RELEASE}.gz",
    f"usr/lib/modules/{RELEASE}/vmlinux",
    f"usr/lib/modules/{RELEASE}/vmlinux.debug",
    f"usr/lib/modules/{RELEASE}/vmlinux.xz",
    f"lib/modules/{RELEASE}/vmlinux.zst",
    f"usr/lib/modules/{RELEASE}/build/vmlinux",  # Arch
    f"lib/modules/{RELEASE}/build/vmlinux",  # built from source
    f"usr/lib/debug/.build-id/{BUILD_ID_FILE}.debug",
    f"usr/lib/debug/.build-id/{BUILD_ID_FILE}",
    f"usr/lib/.build-id/{BUILD_ID_FILE}",
]
MODULE_PLACES = [
    f"usr/lib/debug/lib/modules/{RELEASE}/kernel/fs/nfs/nfs-layout.ko",  # Debian
    f"usr/lib/debug/lib/modules/{RELEASE}/kernel/fs/nfs/nfs_layout.ko.debug",  # Fedora, RHEL
    f"usr/lib/debug/usr/lib/modules/{RELEASE}/kernel/fs/nfs-layout.ko.debug",  # SUSE
    f"lib/modules/{RELEASE}/updates/dkms/nfs_layout.ko",
    f"lib/modules/{RELEASE}/extra/nfs-layout.ko.xz",
    f"usr/lib/modules/{RELEASE}/kernel/nfs-layout.ko.zst",
    f"usr/lib/modules/{RELEASE}/kernel/nfs-layout.ko.gz",
    f"usr/lib/debug/.build-id/{BUILD_ID_FILE}.debug",
]


def expect(answer: Found | NotFound) -> Found:
    assert isinstance(answer, Found), answer.error()
    return answer


def refuse(answer: Found | NotFound, *words: str) -> KcrashError:
    assert isinstance(answer, NotFound)
    assert not answer
    error = answer.error()
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)
    return error


@pytest.mark.parametrize("name", KERNEL_PLACES)
def test_usual_places_of_kernels(tmp_path: Path, finder: Finder, place: Place, name: str) -> None:
    path = place(tmp_path / "root" / name)
    found = expect(finder.find_kernel(WANTED, RELEASE))
    assert found.verified and found.has_dwarf and found.build_id == WANTED
    packed = path.suffix in (".xz", ".gz", ".zst")
    assert (found.path == path) != packed
    assert (str(path) in found.how) == packed


@pytest.mark.parametrize("name", KERNEL_PLACES)
def test_given_tree(tmp_path: Path, cache: Cache, place: Place, name: str) -> None:
    place(tmp_path / "root" / name)
    found = find_kernel(WANTED, RELEASE, given=[tmp_path / "root"], dirs=(), servers=(), cache=cache)
    assert expect(found).verified


@pytest.mark.parametrize(
    "name",
    [
        "vmlinux",
        f"vmlinux-{RELEASE}.debug",
        "build/vmlinux.xz",
        f"boot/vmlinux-{RELEASE}",
        "a/b/vmlinux-mine",
    ],
)
def test_given_folder_that_is_no_tree(tmp_path: Path, cache: Cache, place: Place, name: str) -> None:
    place(tmp_path / "some" / name)
    found = find_kernel(WANTED, RELEASE, given=[tmp_path / "some"], dirs=(), servers=(), cache=cache)
    assert expect(found).verified


def test_upper_case_build_id(tmp_path: Path, finder: Finder, place: Place) -> None:
    place(tmp_path / "root" / KERNEL_PLACES[0])
    assert expect(finder.find_kernel(WANTED.upper(), RELEASE)).verified


def test_other_build_is_passed_over_and_told(tmp_path: Path, finder: Finder, place: Place) -> None:
    wrong = place(tmp_path / "root" / KERNEL_PLACES[0], OTHER)
    right = place(tmp_path / "root" / KERNEL_PLACES[5])
    found = expect(finder.find_kernel(WANTED, RELEASE))
    assert found.path == right
    assert [str(tried) for tried in found.tried] == [f"{wrong}: build-id {OTHER}, wanted {WANTED}"]


def test_only_another_build(tmp_path: Path, finder: Finder, place: Place) -> None:
    wrong = place(tmp_path / "root" / KERNEL_PLACES[0], OTHER)
    error = refuse(finder.find_kernel(WANTED, RELEASE), str(wrong), OTHER, WANTED, "DEBUGINFOD_URLS")
    assert isinstance(error, MismatchError)


def test_a_file_has_many_names(tmp_path: Path, finder: Finder, place: Place) -> None:
    wrong = place(tmp_path / "root" / KERNEL_PLACES[0], OTHER)
    link = tmp_path / "root" / KERNEL_PLACES[1]
    link.parent.mkdir(parents=True)
    link.symlink_to(wrong)
    answer = finder.find_kernel(WANTED, RELEASE)
    assert isinstance(answer, NotFound) and len(answer.tried) == 1


def test_force(tmp_path: Path, finder: Finder, place: Place) -> None:
    wrong = place(tmp_path / "wrong", OTHER)
    place(tmp_path / "root" / KERNEL_PLACES[0])
    assert expect(finder.find_kernel(WANTED, RELEASE, given=[wrong])).path != wrong
    found = expect(finder.find_kernel(WANTED, RELEASE, given=[wrong], force=True))
    assert (found.path, found.verified, found.build_id) == (wrong, False, OTHER)


def test_force_takes_the_right_one_if_none_is_named(tmp_path: Path, finder: Finder, place: Place) -> None:
    wrong = place(tmp_path / "root" / KERNEL_PLACES[0], OTHER)
    assert expect(finder.find_kernel(WANTED, RELEASE, force=True)).path == wrong
    right = place(tmp_path / "root" / KERNEL_PLACES[5])
    assert expect(finder.find_kernel(WANTED, RELEASE, force=True)).path == right


def test_dwarf_is_preferred(tmp_path: Path, finder: Finder, place: Place) -> None:
    stripped = place(tmp_path / "root" / KERNEL_PLACES[0], kind="stripped")
    found = expect(finder.find_kernel(WANTED, RELEASE))
    assert (found.path, found.has_dwarf, found.verified) == (stripped, False, True)
    debug = place(tmp_path / "root" / KERNEL_PLACES[4], kind="debug")
    found = expect(finder.find_kernel(WANTED, RELEASE, given=[stripped]))
    assert (found.path, found.has_dwarf) == (debug, True)


def test_release_alone(tmp_path: Path, finder: Finder, place: Place) -> None:
    path = place(tmp_path / "root" / KERNEL_PLACES[0])
    found = expect(finder.find_kernel(None, RELEASE))
    assert (found.path, found.verified, found.build_id) == (path, False, WANTED)
    refuse(finder.find_kernel(None, "6.1.0-51-test"), "6.1.0-51-test", "nothing in the usual places")


def test_release_alone_takes_no_other_release_of_a_folder(
    tmp_path: Path, finder: Finder, place: Place
) -> None:
    place(tmp_path / "some" / "x" / "vmlinux-5.5.5")
    refuse(finder.find_kernel(None, RELEASE, given=[tmp_path / "some"]))
    assert expect(finder.find_kernel(None, "5.5.5", given=[tmp_path / "some"]))


def test_build_id_alone(tmp_path: Path, finder: Finder, place: Place) -> None:
    place(tmp_path / "root" / KERNEL_PLACES[14])
    assert expect(finder.find_kernel(WANTED, "")).verified


def test_file_without_build_id(tmp_path: Path, finder: Finder, place: Place) -> None:
    given = place(tmp_path / "mine", None)
    usual = place(tmp_path / "root" / KERNEL_PLACES[0], None)
    refuse(finder.find_kernel(WANTED, RELEASE), f"{usual}: build-id none, wanted {WANTED}")
    found = expect(finder.find_kernel(WANTED, RELEASE, given=[given]))
    assert (found.path, found.verified, found.build_id) == (given, False, None)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bzimage(path: Path) -> None:
    path.write_bytes(bytes(0x202) + b"HdrS" + bytes(0x400))


def arm64_image(path: Path) -> None:
    path.write_bytes(bytes(0x38) + b"ARM\x64" + bytes(0x400))


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "is no ELF file"),
        (lambda path: path.write_text("hello"), "is no ELF file"),
        (lambda path: path.write_bytes(b"\x7fELF"), "not an ELF file"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "gzip stream"),
        (fifo, "is no regular file"),
        (loop, "symbolic links"),
        (bzimage, "bzImage, vmlinuz), which has no debuginfo"),
        (arm64_image, "is an arm64 boot Image"),
    ],
)
def test_given_file_of_no_use(
    tmp_path: Path, finder: Finder, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "given")
    answer = finder.find_kernel(WANTED, RELEASE, given=[tmp_path / "given"])
    refuse(answer, f"{tmp_path / 'given'}: ", reason)


def test_given_file_is_of_another_kind(tmp_path: Path, finder: Finder, place: Place) -> None:
    module, kernel = place(tmp_path / "x.ko", kind="module"), place(tmp_path / "vmlinux")
    refuse(finder.find_kernel(WANTED, RELEASE, given=[module]), "is an object file or module")
    refuse(finder.find_module("x", WANTED, RELEASE, given=[kernel]), "is a program")


def test_cut_file(tmp_path: Path, finder: Finder, place: Place) -> None:
    path = place(tmp_path / "root" / KERNEL_PLACES[0])
    os.truncate(path, path.stat().st_size // 2)
    refuse(finder.find_kernel(WANTED, RELEASE), str(path), "the file ends inside its section headers")


def test_nul_in_a_given_name(finder: Finder) -> None:
    refuse(finder.find_kernel(WANTED, RELEASE, given=["a\0b"]))


@pytest.mark.parametrize("release", ["../../root/boot/x", "/etc", ".", "..", "a/b", "x\ny", "x\0", "x" * 300])
def test_hostile_release_is_no_path(tmp_path: Path, finder: Finder, place: Place, release: str) -> None:
    place(tmp_path / "root" / KERNEL_PLACES[0])
    place(tmp_path / "root/boot/vmlinux-x")
    (tmp_path / "root/usr/lib/debug/boot/vmlinux-..").mkdir()
    answer = finder.find_kernel(None, release, given=[])
    refuse(answer)
    assert "\0" not in str(answer)


@pytest.mark.parametrize("build_id", ["../../etc/passwd", "xyz", "ab", "ab\ncd", "é" * 8])
def test_broken_build_id_is_told(tmp_path: Path, finder: Finder, place: Place, build_id: str) -> None:
    path = place(tmp_path / "root" / KERNEL_PLACES[0])
    found = expect(finder.find_kernel(build_id, RELEASE))
    assert found.path == path and not found.verified
    assert "is no build-id" in str(found.tried[0])


def test_links_in_a_circle(tmp_path: Path, finder: Finder, place: Place) -> None:
    (tmp_path / "some/deep").mkdir(parents=True)
    (tmp_path / "some/deep/up").symlink_to(tmp_path / "some")
    place(tmp_path / "some/deep/vmlinux-x")
    assert expect(finder.find_kernel(WANTED, RELEASE, given=[tmp_path / "some"])).verified


def test_what_elfutils_fetched(
    tmp_path: Path, finder: Finder, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path / "xdg/debuginfod_client" / WANTED / "debuginfo")
    assert "client" in expect(finder.find_kernel(WANTED, RELEASE)).how
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "own"))
    (tmp_path / "own" / OTHER).mkdir(parents=True)
    (tmp_path / "own" / OTHER / "debuginfo").touch()  # how elfutils remembers a miss
    answer = finder.find_kernel(OTHER, RELEASE)
    assert isinstance(answer, NotFound) and not answer.tried


def test_arguments_that_may_hold_a_kernel(tmp_path: Path, place: Place) -> None:
    for name in ("vmlinux", "vmlinux.gz", "vmlinux.xz", "vmlinux.zst", "vmlinux.bz2"):
        assert may_hold_kernel(place(tmp_path / name))
    bzimage(tmp_path / "vmlinuz")
    assert may_hold_kernel(tmp_path / "vmlinuz") and may_hold_kernel(tmp_path)
    (tmp_path / "dump").write_bytes(b"KDUMP   " + bytes(5000))
    (tmp_path / "cut").write_bytes(b"\x7fELF")
    fifo(tmp_path / "fifo")
    for name in ("dump", "cut", "fifo"):
        assert not may_hold_kernel(tmp_path / name)
    assert not may_hold_kernel(place(tmp_path / "x.ko", kind="module"))
    with pytest.raises(FileNotFoundError):
        may_hold_kernel(tmp_path / "none")


# -- modules


@pytest.mark.parametrize("asked", ["nfs_layout", "nfs-layout"])
@pytest.mark.parametrize("name", MODULE_PLACES)
def test_places_of_modules(tmp_path: Path, finder: Finder, place: Place, name: str, asked: str) -> None:
    place(tmp_path / "root" / name, kind="module")
    place(tmp_path / "root" / f"usr/lib/modules/{RELEASE}/kernel/nfs.ko", OTHER, kind="module")
    assert expect(finder.find_module(asked, WANTED, RELEASE)).verified
    found = find_module(asked, WANTED, RELEASE, given=[tmp_path / "root"], dirs=(), cache=finder.cache)
    assert expect(found).verified


def test_modules_dep_leads_to_the_debug_file(tmp_path: Path, finder: Finder, place: Place) -> None:
    root = tmp_path / "root"
    stripped = place(root / f"lib/modules/{RELEASE}/kernel/fs/my-fs.ko.xz", kind="module")
    listing = root / f"lib/modules/{RELEASE}/modules.dep"
    listing.write_text("kernel/fs/my-fs.ko.xz: kernel/fs/other.ko.xz\nkernel/fs/other.ko.xz:\n")
    debug = place(root / f"usr/lib/debug/lib/modules/{RELEASE}/kernel/fs/my-fs.ko.debug", kind="module")
    assert expect(finder.find_module("my_fs", WANTED, RELEASE)).path == debug
    debug.unlink()
    assert str(stripped) in expect(finder.find_module("my_fs", WANTED, RELEASE)).how
    assert not finder._indexes  # nobody walked through the folders


@pytest.mark.parametrize("line", ["../../../x.ko:", "/etc/x.ko:", "x.ko\0:", ":", "\xff\xfe", "x.ko" * 5000])
def test_hostile_modules_dep(tmp_path: Path, finder: Finder, place: Place, line: str) -> None:
    base = tmp_path / f"root/lib/modules/{RELEASE}"
    place(tmp_path / "root/x.ko", OTHER, kind="module")
    right = place(base / "kernel/x.ko", kind="module")
    (base / "modules.dep").write_text(line + "\n")
    answer = expect(finder.find_module("x", WANTED, RELEASE))
    assert answer.path == right and not any("root/x.ko" in tried.place for tried in answer.tried)


def test_updates_come_first(tmp_path: Path, finder: Finder, place: Place) -> None:
    base = tmp_path / f"root/lib/modules/{RELEASE}"
    place(base / "kernel/drivers/x.ko", WANTED, kind="module")
    update = place(base / "updates/x.ko", OTHER, kind="module")
    assert expect(finder.find_module("x", None, RELEASE)).path == update
    assert expect(finder.find_module("x", WANTED, RELEASE)).path != update


def test_modules_in_a_flat_folder(tmp_path: Path, finder: Finder, place: Place) -> None:
    path = place(tmp_path / "mods/some-driver.ko", kind="module")
    assert expect(finder.find_module("some_driver", None, RELEASE, given=[tmp_path / "mods"])).path == path
    assert expect(finder.find_module("some_driver", WANTED, "", given=[path])).path == path
    refuse(finder.find_module("driver", WANTED, RELEASE, given=[tmp_path / "mods"]), "module driver")


@pytest.mark.parametrize("name", ["../x", "x/y", "", "x\n", "*", "x" * 5000])
def test_hostile_module_name(tmp_path: Path, finder: Finder, place: Place, name: str) -> None:
    place(tmp_path / f"root/lib/modules/{RELEASE}/kernel/x.ko", kind="module")
    refuse(finder.find_module(name, None, RELEASE, given=[tmp_path / "root"]))
