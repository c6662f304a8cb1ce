"""C declarations, parsed: types and sizes against gcc's and gdb's of the same text; readers of members."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcrash.errors import ExpressionError, KcrashError, MissingMember, MissingType
from kcrash.symbols.elffile import ElfFile
from kcrash.types.declarations import DeclarationSource
from kcrash.types.dwarf import DwarfSource
from kcrash.types.exact import ExactTypes
from kcrash.types.model import ArrayType, CompoundType
from kcrash.types.namespace import Types
from kcrash.types.parse import declarations

HEADER = """
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int counter; } atomic_t;
typedef int (*handler_t)(void *, int);
enum size { NONE, THREE = 3, MANY = 20 };
struct list_head { struct list_head *next, *prev; };
union number { int i; double d; };
struct bits { unsigned int a : 1, b : 3; int c : 4; unsigned long long d : 40; _Bool e : 1; };
struct odd {
    char c; short s; int i; long l; signed char sc; unsigned char uc; unsigned short us; _Bool flag;
    enum size size; float f; double d; void *pointer; char name[6]; struct bits bits; union number number;
    struct list_head list; u64 big; int numbers[3]; struct { short x, y; };
} __attribute__((aligned(16)));
struct odd an_odd; enum size a_size; u32 a_u32; atomic_t an_atomic; handler_t a_handler; u64 a_u64;
"""
# The declared names are v0, v1 ...: "@" stands for the name.
DECLARED = (
    *(
        "int @",
        "unsigned @",
        "unsigned int @",
        "int unsigned @",
        "long @",
        "long int @",
        "unsigned long int @",
    ),
    *("long long @", "unsigned long long @", "long unsigned int long @", "short @", "short int @"),
    *(
        "unsigned short int @",
        "signed @",
        "signed char @",
        "unsigned char @",
        "char @",
        "_Bool @",
        "double @",
    ),
    *(
        "float @",
        "u32 @",
        "u64 @",
        "atomic_t @",
        "enum size @",
        "union number @",
        "struct odd @",
        "struct bits @",
    ),
    *("int *@", "const int *@", "int *const @", "const char *const @", "volatile int @", "int const @"),
    *("char **@", "void *@", "struct list_head *@", "struct list_head @[3]", "int @[2][3]", "char *@[4]"),
    *("char (*@)[4]", "int (*@)(void)", "int (*@)(int, char *)", "int (*@[2])(void *)", "handler_t @"),
    *("handler_t @[THREE]", "int @[MANY]", "int @[0x10]"),
    *("void (*(*@)(int))(void)", "int (*(*@)[3])(char)"),
    *("int *(*@)(const char *, ...)", "struct odd *(*@)(struct odd *, u64)", "int (@)", "int ((@))[5]"),
    *("const struct odd *const *@", "unsigned char @[1][2][3]", "void (*@)(void (*)(int), int)"),
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object file with every declaration of DECLARED as a variable."""
    folder = tmp_path_factory.mktemp("declared")
    lines = [text.replace("@", f"v{number}") + ";" for number, text in enumerate(DECLARED)]
    (folder / "declared.c").write_text(HEADER + "\n".join(lines) + "\nint main(void) { return 0; }\n")
    argv = ["gcc", "-g", "-gdwarf-4", "-no-pie", "-fno-pie", "-o", "declared", "declared.c"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder / "declared"


@pytest.fixture(scope="module")
def types(compiled: Path) -> Types:
    made = Types("little", 8)
    made.add(DwarfSource(ElfFile(compiled)))
    return made


def gdb(compiled: Path, commands: list[str]) -> list[str]:
    words = [word for command in commands for word in ("-ex", command, "-ex", "echo @@@\\n")]
    argv = ["gdb", "-nx", "-batch", *words, str(compiled)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [part.strip() for part in text.split("@@@\n")][:-1]


def test_declarations_are_gcc_s(compiled: Path, types: Types) -> None:
    """Type and size of each, parsed from its text, as gdb reads them from what gcc made of the same text."""
    text = "\n".join(line.replace("@", f"v{number}") + ";" for number, line in enumerate(DECLARED))
    ours = list(declarations(text, types))
    assert [name for name, _type in ours] == [f"v{number}" for number in range(len(DECLARED))]
    told = gdb(compiled, [f"whatis v{number}" for number in range(len(DECLARED))])
    sizes = gdb(compiled, [f"output sizeof(v{number})" for number in range(len(DECLARED))])
    for line, (_name, type_), wanted, size in zip(DECLARED, ours, told, sizes, strict=True):
        assert (f"type = {type_}", type_.size) == (wanted, int(size)), line


UNKNOWN_TO_GDB = re.compile(r"\(\(@|[A-Z]{3}|int unsigned|int long")  # as type names


def test_type_names_are_gdb_s(compiled: Path, types: Types) -> None:
    """The same without a name, as in a cast."""
    lines = [line for line in DECLARED if not UNKNOWN_TO_GDB.search(line)]
    names = [line.replace("(@)", "").replace("@", "") for line in lines]
    sizes = gdb(compiled, [f"output sizeof({name})" for name in names])
    assert [types.size(name) for name in names] == [*map(int, sizes)]
    assert len(names) > 45


def test_offsets_are_gcc_s(compiled: Path, types: Types) -> None:
    odd = types.compound("struct odd")
    paths = [m.name for m in odd.members if m.name] + [
        "x",
        "y",
        "numbers[2]",
        "number.d",
        "list.prev",
        "name[5]",
    ]
    told = gdb(compiled, [f"output/d (long)&((struct odd *)0)->{path}" for path in paths])
    assert [odd.offset(path) for path in paths] == [*map(int, told)]


NOT_UNDERSTOOD = (
    *("nosuch @", "struct nosuch @", "int @[NOSUCH]", "int @[-1]"),
    *("int (@", "int @[", "int @ @", "u32 u32 @"),
    *("* @", "; @", "int @[99999999999999999999x]", "int " + "(*" * 200 + "@" + ")" * 200),
)


@pytest.mark.parametrize("text", NOT_UNDERSTOOD)
def test_what_cannot_be_understood(types: Types, text: str) -> None:
    with pytest.raises(ExpressionError):
        list(declarations(text.replace("@", "name") + ";", types))


PIECES = [
    "int",
    "struct",
    "list_head",
    "odd",
    "*",
    "(",
    ")",
    "[",
    "]",
    "3",
    ",",
    "...",
    "const",
    "x",
    ";",
    "u32",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join), st.text(max_size=40)))
def test_any_text_is_a_type_or_an_error(types: Types, text: str) -> None:
    for parse in (types.type, lambda name: list(declarations(name, types))):
        with suppress(MissingType, ExpressionError):
            parse(text)


# -- a table of declarations


def test_the_first_line_that_this_kernel_has_counts(types: Types) -> None:
    table = """
struct nosuch thing;
struct list_head thing; // with struct odd.nosuch
struct odd thing; // with struct odd.numbers
int thing;
int other[];
char text[];
// int comment;
"""
    source = DeclarationSource(types, table, lambda name: 40)
    assert str(source.variable("thing")) == "struct odd"
    other = source.variable("other")
    assert isinstance(other, ArrayType) and other.count == 10  # as long as its symbol
    assert str(source.variable("text")) == "char []"
    assert source.variable("comment") is None and source.variable("hing") is None


def test_exact_types_are_of_dwarf(types: Types) -> None:
    exact = ExactTypes(types)
    assert str(exact.type("struct odd").underlying) == "struct odd" and exact.enumerator("MANY") is not None
    assert exact.find("struct", "nosuch") is None


# -- readers

FORMS = {"c": "b", "s": "h", "i": "i", "l": "q", "sc": "b", "uc": "B", "us": "H", "flag": "B", "size": "I",
         "f": "f", "d": "d", "pointer": "Q", "name": "6s", "list.next": "Q", "big": "Q", "x": "h", "y": "h",
         "number.i": "i", "number.d": "d"}  # fmt: skip
BITS = {"bits.a": (0, 1, False), "bits.b": (1, 3, False), "bits.c": (4, 4, True), "bits.e": (104, 1, False)}


def expected(compound: CompoundType, data: bytes, path: str) -> object:
    """A member of a struct's bytes, by the struct module and shifts."""
    if path in BITS:
        start, size, signed = BITS[path]
        value = int.from_bytes(data[compound.offset("bits") :], "little") >> start & (1 << size) - 1
        return value - (1 << size) if signed and value >> size - 1 else value
    return struct.unpack_from("<" + FORMS[path], data, compound.offset(path))[0]


def bit_places(compiled: Path) -> Iterator[tuple[str, int]]:
    """Where gcc put the bit-fields: found by gdb's ptype /o."""
    text = gdb(compiled, ["ptype /o struct bits"])[0]
    for byte, bit, name in re.findall(r"/\* *(\d+): *(\d+) +\| +\d+ \*/ .* (\w+) : \d+;", text):
        yield f"bits.{name}", int(byte) * 8 + int(bit)


def test_readers(compiled: Path, types: Types) -> None:
    """Any members of random bytes, in any order."""
    places = dict(bit_places(compiled))
    bits = {path: (places[path], size, signed) for path, (_place, size, signed) in BITS.items()}
    BITS.update(bits)
    compound, chance = types.compound("struct odd"), random.Random("readers")
    for _ in range(300):
        paths = chance.sample([*FORMS, *BITS], chance.randrange(1, 9))
        data = chance.randbytes(compound.size)
        reader = types.reader("struct odd", *paths)
        assert reader.start + reader.size <= compound.size
        piece = data[reader.start : reader.start + reader.size]
        wanted = tuple(expected(compound, data, path) for path in paths)
        assert repr(reader(piece)) == repr(wanted), paths
        assert repr(reader(b"xy" + piece, 2)) == repr(wanted)


def test_a_reader_of_what_is_not_there(types: Types) -> None:
    with pytest.raises(MissingMember, match="struct odd has no member 'nosuch'"):
        types.reader("struct odd", "c", "nosuch")
    with pytest.raises(KcrashError):
        types.reader("struct nosuch", "c")


def test_an_embedded_struct_reads_as_its_offset(types: Types) -> None:
    reader = types.reader("struct odd", "list", "i")
    data = bytes(reader.size)
    assert reader(data) == (types.offset("struct odd", "list"), 0)
