"""Forms of kernel structures that no dump of the lab has any more, on kernels made by hand."""

from __future__ import annotations

import struct

import pytest

from kcrash.arch import x86_64
from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.modules import module_symbols, modules, taint_letters
from kcrash.linux.printk import LogRecord, log_records
from kcrash.linux.tasks import task_table, thread_info
from tests.linux.synthetic import BASE, Kernel

# -- the log


def records_kernel(name: str, records: list[tuple[bytes, bytes]], size: int = 256, first: int = 0) -> Kernel:
    """A log of variable records (kernel/printk/printk.c of v3.5 to v5.9) that begins at offset ``first``."""
    kernel = Kernel()
    members = dict.fromkeys(("len", "text_len", "dict_len"), "unsigned short")
    extra = {"caller_id": "unsigned int"} if name == "printk_log" else {}
    kernel.struct(
        name,
        ts_nsec="unsigned long long",
        **members,
        facility="unsigned char",
        level="unsigned char",
        **extra,
    )
    header = kernel.types.size(f"struct {name}")
    buffer, at = bytearray(size), first
    for number, (text, pairs) in enumerate(records):
        length = header + len(text) + len(pairs) + 3 & ~3
        if at + length + header > size:
            at = 0  # a header of zeros, or no room for one, says: go on at the start
        row = struct.pack("<QHHHBB", 10**9 + number, length, len(text), len(pairs), 0, 4 + number % 3)
        row += struct.pack("<I", 0x80000000 + number) if extra else b""
        buffer[at : at + length] = (row + text + pairs).ljust(length, b"\0")
        at += length
    kernel.symbol("log_buf", kernel.words(kernel.memory.add(bytes(buffer))))
    for symbol, value in (("log_buf_len", size), ("log_first_idx", first), ("log_next_idx", at)):
        kernel.symbol(symbol, kernel.words(value))
    return kernel


@pytest.mark.parametrize(("name", "caller"), [("printk_log", 0x80000001), ("log", None)])
def test_records_of_variable_length(name: str, caller: int | None) -> None:
    kernel = records_kernel(name, [(b"one", b""), (b"two\nlines", b"SUBSYSTEM=pci\0DEVICE=+pci:0")])
    found = list(log_records(kernel.session))
    assert [record.text for record in found] == [b"one", b"two\nlines"]
    assert found[1] == LogRecord(
        1, 10**9 + 1, 5, 0, caller, b"two\nlines", (b"SUBSYSTEM=pci", b"DEVICE=+pci:0")
    )


def test_records_go_on_at_the_start_of_the_buffer() -> None:
    kernel = records_kernel("printk_log", [(b"a" * 40, b""), (b"b" * 40, b""), (b"c" * 40, b"")], 256, 96)
    assert [record.text[:1] for record in log_records(kernel.session)] == [b"a", b"b", b"c"]


def test_hostile_records() -> None:
    kernel = records_kernel("printk_log", [(b"one", b"")])
    kernel.memory.write(kernel.symbols.address("log_next_idx"), struct.pack("<I", 255))
    assert len(list(log_records(kernel.session))) < 20, "records of no length, round and round"
    kernel.memory.write(kernel.symbols.address("log_buf_len"), struct.pack("<I", 0xFFFFFFFF))
    with pytest.raises(CorruptData, match="log_buf_len"):
        list(log_records(kernel.session))


@pytest.mark.parametrize("wrapped", [False, True])
def test_plain_text(wrapped: bool) -> None:
    """Before v3.5: a ring of bytes, of which log_end counts how many were ever written."""
    text = b"<6>first\n<3>second\nno level\n"
    size = 64
    kernel, shift = Kernel(), 40 if wrapped else 0
    ring = (
        bytes(shift) + text
        if not wrapped
        else (text[size - shift :] + bytes(size))[:shift] + text[: size - shift]
    )
    ring = ring.ljust(size, b"\0")
    kernel.symbol("log_buf", kernel.words(kernel.memory.add(ring)))
    kernel.symbol("log_buf_len", kernel.words(size))
    kernel.symbol("log_end", kernel.words(size + shift + len(text) - size if wrapped else len(text)))
    found = [(record.level, record.text) for record in log_records(kernel.session)]
    assert found == [(6, b"first"), (3, b"second"), (4, b"no level")]


# -- modules

LAYOUTS = ("mem", "core_layout", "module_core")
CORE, INIT = 0xFFFFFFFFC0000000, 0xFFFFFFFFC0010000


def module_kernel(form: str) -> Kernel:
    """One module, "ext", of a kernel of v6.4, of v4.5 or before, with two symbols."""
    kernel = Kernel()
    kernel.struct("list_head", next="void *", prev="void *")
    kernel.struct("elf64_sym", st_name="unsigned int", st_info="unsigned char", st_other="unsigned char",
                  st_shndx="unsigned short", st_value="unsigned long", st_size="unsigned long")  # fmt: skip
    kernel.struct("mod_kallsyms", symtab="struct elf64_sym *", num_symtab="unsigned int", strtab="char *")
    members = {
        "state": "unsigned int",
        "list": "struct list_head",
        "name": "char [56]",
        "taints": "unsigned long",
    }
    members |= _symbol_members(form) | _layout_members(kernel, form)
    kernel.struct("module", **members)
    strings = kernel.memory.add(b"\0ext_init\0ext_table\0")
    rows = ((0, 0, 0, 0, 0, 0), (1, ord("T"), 0, 1, CORE + 0x10, 32), (10, ord("d"), 0, 2, CORE + 0x800, 8))
    symtab = kernel.memory.add(b"".join(struct.pack("<IBBHQQ", *row) for row in rows))
    tables = {"symtab": symtab, "num_symtab": 3, "strtab": strings}
    if form != "module_core":
        tables = {"kallsyms": kernel.new("struct mod_kallsyms", **tables)}
    module = kernel.new("struct module", name=b"ext", taints=1 << 12, **tables, **_layout_values(form))
    head = kernel.words(0, 0)
    node = module + kernel.types.offset("struct module", "list")
    kernel.memory.write(head, struct.pack("<QQ", node, node))
    kernel.memory.write(node, struct.pack("<QQ", head, head))
    kernel.symbol("modules", head)
    return kernel


def _symbol_members(form: str) -> dict[str, str]:
    if form == "module_core":
        return {"symtab": "struct elf64_sym *", "num_symtab": "unsigned int", "strtab": "char *"}
    return {"kallsyms": "struct mod_kallsyms *"}


def _layout_members(kernel: Kernel, form: str) -> dict[str, str]:
    kernel.struct("module_memory", base="void *", size="unsigned int")
    kernel.struct("module_layout", base="void *", size="unsigned int", text_size="unsigned int")
    if form == "mem":
        return {"mem": "struct module_memory [2]"}
    if form == "core_layout":
        return {"core_layout": "struct module_layout", "init_layout": "struct module_layout"}
    return {
        "module_core": "void *",
        "core_size": "unsigned int",
        "module_init": "void *",
        "init_size": "unsigned int",
    }


def _layout_values(form: str) -> dict[str, int]:
    if form == "core_layout":
        return {"core_layout__base": CORE, "core_layout__size": 0x1000, "init_layout__base": INIT}
    if form == "module_core":
        return {"module_core": CORE, "core_size": 0x1000, "module_init": INIT, "init_size": 0}
    return {}


@pytest.mark.parametrize("form", LAYOUTS[1:])
def test_module_layouts_before_6_4(form: str) -> None:
    kernel = module_kernel(form)
    (module,) = modules(kernel.session)
    assert (module.name, module.base, module.size) == ("ext", CORE, 0x1000)
    assert [(region.name, region.start) for region in module.regions] == [("core", CORE)]
    found = module_symbols(kernel.session, module)
    assert [(s.name, s.address, s.type, s.size) for s in found] == [
        ("ext_init", CORE + 0x10, "T", 32),
        ("ext_table", CORE + 0x800, "d", 8),
    ]
    assert taint_letters(kernel.session)[12] == "O", "before v4.10 the letters are in no table"


# -- tasks


def task_kernel(*, on_stack: bool) -> tuple[Kernel, dict[str, int]]:
    """Tasks of v4.9 to v5.13 (``state``, ``cpu``), or of before: thread_info at the base of the stack.

    Threads hang together by thread_group, as before v3.14.
    """
    kernel = Kernel()
    kernel.struct("list_head", next="void *", prev="void *")
    kernel.struct("thread_info", flags="unsigned int", cpu="unsigned int")
    if not on_stack:
        kernel.struct("thread_info", flags="unsigned long")
    kernel.struct("thread_struct", sp="unsigned long")
    pointers = dict.fromkeys(("mm", "active_mm", "parent", "real_parent", "group_leader", "signal"), "void *")
    members = {"thread_info": "struct thread_info"} if not on_stack else {}
    kernel.struct(
        "task_struct", **members, state="long", stack="void *", flags="unsigned int",
        **({} if on_stack else {"cpu": "unsigned int"}), exit_state="int", pid="int", tgid="int",
        tasks="struct list_head", thread_group="struct list_head", comm="char [16]",
        thread="struct thread_struct", **pointers,
    )  # fmt: skip
    kernel.struct("cpumask", bits="unsigned long [1]")
    kernel.struct("rq", curr="void *", idle="void *")
    for name in ("possible", "present", "online"):
        kernel.symbol(f"cpu_{name}_bits", kernel.words(3))  # v4.4 and before
    tasks: dict[str, int] = {}
    for number, (name, pid, tgid, state) in enumerate(
        (("swapper", 0, 0, 0), ("init", 1, 1, 1), ("thread", 7, 1, 2))
    ):
        stack = kernel.memory.add(struct.pack("<II", 0, number % 2) + bytes(4088))
        place = {} if on_stack else {"cpu": number % 2}
        tasks[name] = kernel.new("struct task_struct", comm=name.encode(), pid=pid, tgid=tgid, state=state,
                                 stack=stack, **place)  # fmt: skip
    _ring(kernel, "tasks", tasks["swapper"], tasks["init"])
    _ring(kernel, "thread_group", tasks["init"], tasks["thread"])
    kernel.symbol("init_task", tasks["swapper"])
    kernel.symbol("runqueues", BASE)
    for cpu in (0, 1):
        kernel.symbol(f"runqueues:{cpu}", kernel.new("struct rq", curr=tasks["init"], idle=tasks["swapper"]))
    return kernel, tasks


def _ring(kernel: Kernel, member: str, *tasks: int) -> None:
    nodes = [task + kernel.types.offset("struct task_struct", member) for task in tasks]
    for number, node in enumerate(nodes):
        after, before = nodes[(number + 1) % len(nodes)], nodes[number - 1]
        kernel.memory.write(node, struct.pack("<QQ", after, before))


@pytest.mark.parametrize("on_stack", [False, True], ids=["v4.9", "v3.10"])
def test_tasks_of_old_kernels(on_stack: bool) -> None:
    kernel, addresses = task_kernel(on_stack=on_stack)
    table = task_table(kernel.session)
    assert table.errors == []
    found = {task.name: task for task in table.tasks if task.address != addresses["swapper"]}
    assert {name: (task.pid, task.tgid, task.state, task.cpu) for name, task in found.items()} == {
        "init": (1, 1, 1, 1),
        "thread": (7, 1, 2, 0),
    }
    init = found["init"]
    assert thread_info(kernel.session, init) == (init.stack if on_stack else init.address)


# -- stacks of tasks that are switched out, before v4.9

SWITCH_TO = """push rbp
mov rbp, rsi
mov qword ptr [rdi + 0x{place:x}], rsp
mov rsp, qword ptr [rsi + 0x{place:x}]
call 0x{target:x}
mov rdi, rax
mov rsi, rbp
pop rbp"""


def switch_code(place: int, address: int, target: int, *, flags: bool) -> bytes:
    """The instructions of switch_to() at ``address``; proved by the disassembler."""
    import capstone

    disp = struct.pack("<I", place)
    head = (b"\x9c" if flags else b"") + b"\x55\x48\x89\xf5\x48\x89\xa7" + disp + b"\x48\x8b\xa6" + disp
    call = b"\xe8" + struct.pack("<i", target - (address + len(head) + 5))
    code = head + call + b"\x48\x89\xc7\x48\x89\xee\x5d" + (b"\x9d" if flags else b"")
    decoded = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, address)
    text = SWITCH_TO.format(place=place, target=target)
    wanted = f"pushfq\n{text}\npopfq" if flags else text
    assert "\n".join(f"{one.mnemonic} {one.op_str}".strip() for one in decoded) == wanted
    return code


def switching_kernel(*, flags: bool) -> tuple[Kernel, int, int]:
    """A kernel of before v4.9, its sleeping task, and where its call of __switch_to returns to."""
    kernel = Kernel()
    kernel.struct("thread_info", flags="unsigned int")
    kernel.struct("thread_struct", sp="unsigned long")
    kernel.struct("task_struct", stack="void *", much="char [1000]", thread="struct thread_struct")
    place = kernel.types.offset("struct task_struct", "thread.sp")
    # A byte of 0x9c in front is no pushf if no popf comes behind.
    schedule = kernel.memory.add(b"\x90" * 40 + b"\xb0\x9c" + bytes(64) + bytes(8192))
    code = switch_code(place, schedule + 42, BASE, flags=flags)
    kernel.memory.write(schedule + 42, code)
    kernel.symbol("__schedule", schedule)
    kernel.symbol("ret_from_fork", BASE + 16)
    saved = kernel.words(0x1111, 0x246) if flags else kernel.words(0x1111)
    task = kernel.new("struct task_struct", stack=kernel.new("struct thread_info"), thread__sp=saved)
    return kernel, task, schedule + 42 + code.index(b"\xe8") + 5


@pytest.mark.parametrize("flags", [False, True], ids=["v4.0 to v4.8", "v3.19"])
def test_where_a_sleeping_task_goes_on(flags: bool) -> None:
    kernel, task, pc = switching_kernel(flags=flags)
    sp = kernel.value("struct task_struct", task).thread.sp
    found = x86_64.switched_out(kernel.types, kernel.symbols, kernel.memory, task)
    assert found == {
        x86_64.DWARF["rip"]: pc,
        x86_64.DWARF["rbp"]: 0x1111,
        x86_64.DWARF["rsp"]: int(sp) + (16 if flags else 8),
    }


def test_where_a_task_goes_on_that_has_never_run() -> None:
    kernel, task, _pc = switching_kernel(flags=False)
    value = kernel.value("struct task_struct", task)
    kernel.set("struct thread_info", int(value.stack), flags=1 << 18)
    found = x86_64.switched_out(kernel.types, kernel.symbols, kernel.memory, task)
    assert found == {x86_64.DWARF["rip"]: BASE + 16, x86_64.DWARF["rsp"]: int(value.thread.sp)}


def test_no_code_that_switches() -> None:
    kernel, task, _pc = switching_kernel(flags=False)
    kernel.memory.write(kernel.symbols.address("__schedule"), bytes(256))
    with pytest.raises(KcrashError, match="inactive_task_frame"):
        x86_64.switched_out(kernel.types, kernel.symbols, kernel.memory, task)
