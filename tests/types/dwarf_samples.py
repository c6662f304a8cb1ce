"""Small compiled files with debug info, and the other tools' word on what is in them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

HEADER = """
typedef unsigned int u32;
struct list_head { struct list_head *next, *prev; };
struct hidden;
struct nowhere;
union both { int i; char bytes[8]; };
struct pid { int nr; };
struct flags { unsigned a:3; unsigned b:7; int c:5; unsigned long long d:40; };
enum color { RED, GREEN = 5, BLUE };
enum sign { MINUS = -3, PLUS = 7 };
struct everything {
    char comm[16];
    struct list_head list;
    union { int anon_a; long long anon_b; };
    struct { short x, y; };
    int grid[2][3];
    const volatile int cv;
    int (*op)(struct everything *, const char *, ...);
    enum color color;
    enum sign sign;
    struct hidden *hidden;
    struct nowhere *nowhere;
    struct flags flags;
    _Bool on;
    double real;
    struct pid *pid;
    void *opaque;
    int *const fixed;
    int empty[0];
    u32 tail[];
};
extern char sized_elsewhere[];
extern struct hidden the_hidden;
static inline __attribute__((always_inline)) int deep(int v) { return v * 3 + the_hidden_value(v); }
static inline __attribute__((always_inline)) int middle(int v)
{
    if (v > 2)
        v = deep(v + 1);
    return v;
}
"""

FIRST = (
    "int the_hidden_value(int);\n"
    + HEADER
    + """
struct everything thing;
struct list_head my_list_head;
static struct flags quiet = { 1, 2, 3, 4 };
enum color shade = BLUE;
const char banner[] = "banner";
int outer(struct everything *arg, int count)
{
    int ret = count;
    for (int at = 0; at < count; at++)
        ret += middle(at) + arg->color;
    quiet.b++;
    return ret + quiet.a + sizeof(union both) + arg->sign;
}
int main(void) { return outer(&thing, 5); }
"""
)

SECOND = (
    "int the_hidden_value(int);\n"
    + HEADER
    + """
struct hidden { int secret; struct hidden *self; };
struct hidden the_hidden;
char sized_elsewhere[42];
struct everything *other_thing;
int the_hidden_value(int v)
{
    struct hidden *local = &the_hidden;
    return local->secret + v + sized_elsewhere[v & 31];
}
int variadic(const char *form, ...) { return form[0]; }
static union both thread_both;
u32 use(union both *p) { return p->i + thread_both.i; }
"""
)

# Names of the flavours and what compiles them; gcc's own are always there.
FLAVOURS = {
    "dwarf4": ("gcc", "-gdwarf-4"),
    "dwarf5": ("gcc", "-gdwarf-5"),
    "dwarf5-64bit-offsets": ("gcc", "-gdwarf-5", "-gdwarf64"),
    "dwarf3-strict": ("gcc", "-gdwarf-3", "-gstrict-dwarf"),
    "compressed": ("gcc", "-gdwarf-5", "-gz=zlib"),
    "old-compressed": ("gcc", "-gdwarf-4", "-gz=zlib-gnu"),
    "clang-dwarf5": ("clang", "-gdwarf-5"),
    "clang-dwarf4": ("clang", "-gdwarf-4"),
}


def need(tool: str) -> str:
    """The tool's path; skips the test, and says so, if it is missing."""
    found = shutil.which(tool)
    if not found:
        pytest.skip(f"SKIPPED FOR LACK OF A TOOL: {tool} is not installed, DWARF is not checked against it")
    return found


def run(command: Sequence[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="kcrash-dwarf-"))


@functools.cache
def build(flavour: str) -> Path:
    """The two sources compiled and linked in a flavour of FLAVOURS."""
    compiler, *flags = FLAVOURS[flavour]
    need(compiler)
    folder = _folder() / flavour
    folder.mkdir(parents=True)
    for name, text in (("first.c", FIRST), ("second.c", SECOND)):
        (folder / name).write_text(text)
    target = folder / "program"
    command = [compiler, "-O2", *flags, "-fno-pie", "-no-pie", "-fno-lto", "-w"]
    run([*command, str(folder / "first.c"), str(folder / "second.c"), "-o", str(target)])
    return target


@functools.cache
def build_object(target: str, *flags: str) -> Path:
    """The second source as a relocatable file for another machine, by clang; skips what clang cannot."""
    compiler = need("clang")
    folder = _folder() / "-".join((target, *flags))
    folder.mkdir(parents=True)
    source, result = folder / "second.c", folder / "second.o"
    source.write_text(SECOND)
    command = [
        compiler,
        f"--target={target}",
        "-O1",
        "-g",
        *flags,
        "-w",
        "-c",
        str(source),
        "-o",
        str(result),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"SKIPPED FOR LACK OF A COMPILER: this clang cannot compile for {target}")
    return result


def text_addresses(path: Path) -> range:
    """Addresses of the functions of the samples."""
    symbols = run(["nm", str(path)])
    places = [
        int(row.split()[0], 16)
        for row in symbols.splitlines()
        if row.split()[-1] in ("outer", "main", "the_hidden_value", "variadic", "use")
    ]
    return range(min(places), max(places) + 8)


def addr2line(path: Path, addresses: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """``addr2line -i -f``: (function, "file:line") for each frame of each address.

    LLVM's tool is asked where that of binutils 2.40 does not know 64-bit
    offsets, or loses the inlined functions of what clang wrote.
    """
    tool = need("llvm-addr2line" if "clang" in str(path) or "64bit" in str(path) else "addr2line")
    found: dict[int, list[tuple[str, str]]] = {}
    for start in range(0, len(addresses), 1000):
        some = [hex(address) for address in addresses[start : start + 1000]]
        rows = run([tool, "-a", "-i", "-f", "-e", str(path), *some]).splitlines()
        current: list[str] = []
        groups: list[list[str]] = []
        for row in rows:
            if re.fullmatch(r"0x[0-9a-f]+", row):
                current = []
                groups.append([row, *current])
            else:
                groups[-1].append(re.sub(r" \(discriminator \d+\)", "", row))
        for address, *pairs in groups:
            found[int(address, 16)] = list(zip(pairs[::2], pairs[1::2], strict=True))
    return found


def gdb_lines(path: Path, addresses: Sequence[int]) -> dict[int, tuple[str, int] | None]:
    """``info line *ADDRESS``: (end of the file's name, line), None where gdb knows none."""
    script = _folder() / "lines.gdb"
    script.write_text("\n".join(f"echo @{address}\\n\ninfo line *{address}" for address in addresses))
    found: dict[int, tuple[str, int] | None] = {}
    for block in run([need("gdb"), "-nx", "-batch", "-x", str(script), str(path)]).split("@")[1:]:
        address, _, answer = block.partition("\n")
        match = re.search(r'Line (\d+) of "(.*?)"', answer)
        found[int(address)] = (match[2], int(match[1])) if match else None
    return found


def gdb_values(path: Path, expressions: Sequence[str]) -> list[int]:
    """Integer values of C expressions; -1 where gdb has none."""
    script, texts = _folder() / "values.gdb", _folder() / "values.txt"
    script.write_text(
        f"python\nfor text in open({str(texts)!r}):\n"
        "    try: print(int(gdb.parse_and_eval('(long)(' + text.strip() + ')')))\n"
        "    except gdb.error: print(-1)\nend\n"
    )
    texts.write_text("\n".join(expressions) + "\n")
    return [int(row) for row in run([need("gdb"), "-nx", "-batch", "-x", str(script), str(path)]).split()]


@functools.cache
def split(flavour: str, packer: str = "") -> Path:
    """The sources of a flavour with split debug info, packed by a tool or left in .dwo files.

    Old versions of llvm-dwp do not come to an end with what gcc 12 writes in DWARF 5.
    """
    compiler, *flags = FLAVOURS[flavour]
    sources = [build(flavour).with_name(name) for name in ("first.c", "second.c")]
    target = sources[0].parent / f"split{packer}" / "program"
    target.parent.mkdir()
    command = [need(compiler), "-O2", *flags, "-gsplit-dwarf", "-fno-pie", "-no-pie", "-fno-lto", "-w"]
    for source in sources:
        run([*command, "-c", str(source), "-o", str(target.with_name(source.stem + ".o"))])
    run([*command, *(str(target.with_name(f"{part}.o")) for part in ("first", "second")), "-o", str(target)])
    if packer:
        made = [need(packer), "-e", str(target), "-o", f"{target}.dwp"]
        subprocess.run(made, check=True, capture_output=True, timeout=30)
        for file in target.parent.glob("*.dwo"):
            file.unlink()
    return target


def share(path: Path, *flags: str) -> Path:
    """A copy of a program whose debug info is shared with that of another copy, in a third file (dwz -m)."""
    dwz, folder = need("dwz"), path.parent / "-".join(("shared", path.name, *flags))
    folder.mkdir()
    copies = [folder / "one", folder / "two"]
    for copy in copies:
        shutil.copy(path, copy)
    run([dwz, *flags, "-m", str(folder / "common"), "-M", "common", *map(str, copies)])
    return copies[0]
