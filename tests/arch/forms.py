"""What bt's block of registers and a core's notes hold, an architecture each; from the kernel's headers."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.extensions.gcore.corefile import REGISTERS
from tests.lab.truth import Thread

RISCV_NAMES = (
    "pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1",
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7",
    "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)  # fmt: skip
PPC64_SPECIAL = (
    "pc", "msr", "orig_gpr3", "ctr", "link", "xer", "ccr", "softe", "trap", "dar", "dsisr", "result",
)  # fmt: skip


# -- the block of registers that bt ends with


def arm64_block(thread: Thread, shown: str) -> None:
    block = re.findall(r"([A-Z_0-9]+): ([0-9a-f]+)", shown[shown.index("PC: ") :])
    values = {name.lower(): int(value, 16) for name, value in block}
    assert values["pc"] == thread.registers["pc"] and values["lr"] == thread.registers["x30"]
    assert [values[f"x{n}"] for n in range(30)] == [thread.registers[f"x{n}"] for n in range(30)]
    assert values["syscallno"] == thread.registers["x8"]


def s390x_block(thread: Thread, shown: str) -> None:
    words = re.findall(r"[0-9a-f]{16}", shown)[-18:]
    assert int(words[1], 16) == thread.registers["pc"]
    assert [int(word, 16) for word in words[2:]] == [thread.registers[f"r{n}"] for n in range(16)]


def riscv64_block(thread: Thread, shown: str) -> None:
    block = re.findall(r"([a-z_0-9]+): ([0-9a-f]{16})", shown[shown.index("epc: ") :])
    values = {name: int(value, 16) for name, value in block}
    values["pc"] = values.pop("epc")
    assert {name: values[name] for name in thread.registers} == thread.registers
    assert values["cause"] == 8  # a system call


def ppc64le_block(thread: Thread, shown: str) -> None:
    assert "System Call [c00] exception frame:" in shown
    block = re.findall(r"([A-Z0-9]+): +([0-9a-f]{16})", shown[shown.index(" R0: ") :])
    values = {name: int(value, 16) for name, value in block}
    assert [values[f"R{n}"] for n in range(32)] == [thread.registers.get(f"r{n}", 0) for n in range(32)]
    assert (values["NIP"], values["LR"]) == (thread.registers["pc"], thread.registers["lr"])


def arm_block(thread: Thread, shown: str) -> None:
    block = re.findall(r"(\w+) *: (?:\[<)?([0-9a-f]{8})", shown[shown.index("pc : ") :])
    names = {"ip": "r12", "fp": "r11"}
    values = {names.get(name, name): int(value, 16) for name, value in block}
    assert values.pop("psr") & 0xF0000000 == thread.registers["nzcv"]
    assert values == {name: thread.registers[name] for name in values} and len(values) == 16


def i386_block(thread: Thread, shown: str) -> None:
    block = re.findall(r"([A-Z]+): +([0-9a-f]+)", shown[shown.index("EAX: ") :])
    values = {name.lower(): int(value, 16) for name, value in block}
    values["orig_eax"] = values.pop("err")
    assert {name: values[name] for name in thread.registers} == thread.registers


def loongarch64_block(thread: Thread, shown: str) -> None:
    block = re.findall(r"([a-z_0-9]+) ([0-9a-f]{16})", shown[shown.index("     pc ") :])
    values = {name: int(value, 16) for name, value in block}
    names = ["ra", "tp", "sp", *(f"a{n}" for n in range(8)), *(f"t{n}" for n in range(9)), "u0", "s9",
             *(f"s{n}" for n in range(9))]  # fmt: skip
    numbered = {f"r{number}": values[name] for number, name in enumerate(names, 1)}
    numbered |= {"pc": values["pc"], "orig_a0": values["orig_a0"]}
    assert {name: numbered[name] for name in thread.registers} == thread.registers


BLOCKS: dict[str, Callable[[Thread, str], None]] = {
    "arm64": arm64_block,
    "s390x": s390x_block,
    "riscv64": riscv64_block,
    "ppc64le": ppc64le_block,
    "arm": arm_block,
    "i386": i386_block,
    "loongarch64": loongarch64_block,
}


# -- cores


class CoreForm(NamedTuple):
    """``registers``: the words of pr_reg, at byte 112; ``check``: asserts what a thread's other notes say.

    ``loose``: those in which twins differ; ``leftovers``: notes in which they differ by a word at most, which
    fork() left in a vector register of the parent between them. ``order``: of bytes, as struct spells it.
    ``call``: bytes of the instruction for system calls. ``sp``, ``pc``: names of the stack pointer and of the
    program counter; ``tls``: the thread pointer's, if it is in a register. ``wide``: False for words of 32
    bits.
    """

    registers: tuple[str, ...]
    check: Callable[[Thread, dict[str, bytes]], None]
    loose: frozenset[str] = frozenset()
    order: str = "<"
    call: int = 4
    sp: str = "sp"
    tls: str = ""
    pc: str = "pc"
    wide: bool = True
    leftovers: frozenset[str] = frozenset()

    def general(self, status: bytes) -> dict[str, int]:
        """pr_reg of a struct elf_prstatus, by name."""
        code, start = ("Q", 112) if self.wide else ("I", 72)
        words = struct.unpack_from(f"{self.order}{len(self.registers)}{code}", status, start)
        return dict(zip(self.registers, words, strict=True))


def arm64_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    assert int.from_bytes(notes["LINUX:0x401"][:8], "little") == thread.tls_base, thread.name
    if thread.vector is not None and "FPREGSET" in notes:
        state = notes["FPREGSET"]
        assert [state[16 * n : 16 * n + 16] for n in range(32)] == [thread.vector.v(n) for n in range(32)]
        status, control = struct.unpack_from("<2I", state, 512)
        assert {"fpsr": status, "fpcr": control} == thread.vector.control, thread.name


def riscv64_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    if thread.vector is not None and "FPREGSET" in notes:
        state = notes["FPREGSET"]
        assert len(state) == 264
        halves = b"".join(thread.vector.v(n) for n in range(16))  # 8 bytes of each of 32 registers
        assert state[:256] == halves, thread.name
        assert int.from_bytes(state[256:260], "little") == thread.vector.control["fcsr"], thread.name


def s390x_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    if thread.vector is not None and "FPREGSET" in notes:
        state, high = notes["FPREGSET"], notes["LINUX:0x30a"]
        values = [value for n in range(8) for value in struct.unpack("<2Q", thread.vector.v(n))]
        assert list(struct.unpack_from(">16Q", state, 8)) == values, thread.name
        assert int.from_bytes(state[:4], "big") == thread.vector.control["fpc"], thread.name
        assert len(notes["LINUX:0x309"]) == 128 and len(high) == 256


def ppc64le_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    """Of a vector-scalar register the workload says the upper half first; above 31 they are the vectors."""
    if thread.vector is not None and "FPREGSET" in notes:
        whole = [struct.unpack("<2Q", thread.vector.v(n)) for n in range(64)]
        state, vectors = notes["FPREGSET"], notes["LINUX:0x100"]
        assert struct.unpack_from("<32Q", state) == tuple(upper for upper, _ in whole[:32]), thread.name
        assert struct.unpack("<32Q", notes["LINUX:0x102"]) == tuple(lower for _, lower in whole[:32])
        pairs = struct.unpack_from("<64Q", vectors)
        assert list(zip(pairs[1::2], pairs[::2], strict=True)) == whole[32:], thread.name
        control = {
            "fpscr": int.from_bytes(state[256:], "little"),
            "vrsave": int.from_bytes(vectors[528:], "little"),
        }
        assert control == thread.vector.control, thread.name


def loongarch64_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    if thread.vector is not None and "FPREGSET" in notes:
        state = notes["FPREGSET"]
        halves = b"".join(thread.vector.v(n) for n in range(16))  # 8 bytes of each of 32 registers
        assert state[:256] == halves and len(state) == 268, thread.name
        flags = int.from_bytes(bytes(thread.vector.control["fcc"] >> n & 1 for n in range(8)), "little")
        assert struct.unpack_from("<QI", state, 256) == (flags, thread.vector.control["fcsr"]), thread.name


# Of two threads the one that calls a function first looks it up, which leaves its traces in temporaries; a0
# of a call is -ENOSYS, but its argument again where a signal is about to restart the call.
RISCV_LOOSE = frozenset(("a0", "t0", "t1", "t2", "t3", "t4", "t5", "t6"))
# What a signal makes of a call that it interrupts; and whether a thread's vectors are in the CPU (msr).
PPC64_LOOSE = frozenset(("r3", "ccr", "result", "msr"))

# struct user_regs_struct, arch/x86/include/asm/user_32.h.
I386_NAMES = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
    "eflags", "esp", "ss",
)  # fmt: skip


def i386_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    desc = notes["LINUX:0x200"]
    assert int.from_bytes(desc[4:8], "little") == thread.tls_base, thread.name  # user_desc.base_addr
    if thread.vector is not None and "LINUX:0x46e62b7f" in notes:
        state, control = notes["LINUX:0x46e62b7f"], thread.vector.control
        assert [state[160 + 16 * n : 176 + 16 * n] for n in range(8)] == [
            thread.vector.v(n) for n in range(8)
        ]
        assert struct.unpack_from("<H22xI", state) == (control["fcw"], control["mxcsr"]), thread.name
        assert notes["FPREGSET"][:2] == state[:2] and notes["FPREGSET"][28:38] == state[32:42], thread.name
        assert notes["XSTATE"][:24] == state[:24] and notes["XSTATE"][160:288] == state[160:288]


def arm_notes(thread: Thread, notes: dict[str, bytes]) -> None:
    assert len(notes["FPREGSET"]) == 116, thread.name
    if thread.vector is not None and "LINUX:0x400" in notes:
        state = notes["LINUX:0x400"]
        assert state[:256] == b"".join(thread.vector.v(n) for n in range(16)), thread.name
        assert int.from_bytes(state[256:], "little") == thread.vector.control["fpscr"], thread.name


# A call that a signal ends returns an error, and is not made again while the signal kills.
AMD64_LOOSE = frozenset(("rax",))
ARM64_LEFTOVERS = frozenset(("FPREGSET", "LINUX:0x405"))

LOONGARCH_LOOSE = frozenset(("r4", "badv", *(f"r{n}" for n in range(12, 21))))

CORES = {
    "amd64": CoreForm(REGISTERS, lambda thread, notes: None, AMD64_LOOSE, sp="rsp", pc="rip"),
    "arm64": CoreForm(
        (*(f"x{n}" for n in range(31)), "sp", "pc", "pstate"), arm64_notes, leftovers=ARM64_LEFTOVERS
    ),
    "s390x": CoreForm(
        ("pswm", "pc", *(f"r{n}" for n in range(16)), *(f"a{n}" for n in range(0, 16, 2)), "orig_gpr2"),
        s390x_notes,
        order=">",
        call=2,
        sp="r15",
        tls="a0",
        leftovers=frozenset(("LINUX:0x306",)),  # where the last jump came from: who had to wait for a lock
    ),
    "ppc64le": CoreForm(
        (*(f"r{n}" for n in range(32)), *PPC64_SPECIAL), ppc64le_notes, PPC64_LOOSE, sp="r1", tls="r13"
    ),
    "riscv64": CoreForm(RISCV_NAMES, riscv64_notes, RISCV_LOOSE, tls="tp"),
    "i386": CoreForm(I386_NAMES, i386_notes, call=2, pc="eip", sp="esp", wide=False),
    "arm": CoreForm(
        (*(f"r{n}" for n in range(13)), "sp", "lr", "pc", "cpsr", "orig_r0"), arm_notes, call=2, wide=False
    ),
    "loongarch64": CoreForm(
        (*(f"r{n}" for n in range(32)), "orig_a0", "pc", "badv"),
        loongarch64_notes,
        LOONGARCH_LOOSE,
        sp="r3",
        tls="r2",
    ),
}
CORES["armhf"] = CORES["arm"]
CORES["ppc64el"] = CORES["ppc64le"]  # as Debian calls it
CORES["loong64"] = CORES["loongarch64"]
