"""The forms of a dump. A new one: a row in FORMS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache
from tests.lab.architectures import CAPTURED
from tests.lab.boots import QEMU_DUMPS
from tests.lab.kernels import Kernel
from tests.lab.toolbox import Toolbox

READY, PANIC = "ready", "panic"


@dataclass(frozen=True)
class Form:
    """How a dump is written: by the boot itself, or by makedumpfile with options from the raw ELF dump.

    Those of an architecture's `captured` makedumpfile wrote in the capture kernel: the boot laid them there.
    """

    name: str
    moment: str
    options: tuple[str, ...] = ()
    flat: bool = False

    @property
    def by_boot(self) -> bool:
        return not self.options

    def made_for(self, kernel: Kernel) -> bool:
        """Whether a kernel's dumps come in this form at all."""
        if self.moment == READY:
            return True
        arch = kernel.arch
        return kernel.captures and (self.by_boot or self.name in arch.captured or arch.host_forms)


def _made(name: str, *options: str, flat: bool = False) -> Form:
    return Form(name, PANIC, options, flat)


_ROWS = (
    Form("elf", PANIC),
    *(Form(name, READY) for name in QEMU_DUMPS),
    *(_made(name, *options) for name, options in CAPTURED.items()),
    _made("plain-d31", "-d", "31"),
    _made("makedumpfile-elf-d31", "-E", "-d", "31"),
    _made("flat-zlib-d31", "-F", "-c", "-d", "31", flat=True),
)
FORMS = {form.name: form for form in _ROWS}

# Enough for a bench.
SCALE_FORMS = ("elf", "zlib-d31")


def make(box: Toolbox, boot: Path, names: Iterable[str], kernel: Kernel) -> dict[str, Path]:
    """The dumps of a boot in these forms, made when missing; without those that its QEMU cannot write."""
    found = {name: _path(box, boot, FORMS[name]) for name in names if FORMS[name].made_for(kernel)}
    return {name: path for name, path in found.items() if path.exists()}


def _path(box: Toolbox, boot: Path, form: Form) -> Path:
    if form.by_boot:
        return boot / form.name
    relative = (boot / "forms" / form.name).relative_to(cache.root())
    return cache.keep(str(relative), lambda part: _write(box, boot / "elf", form, part))


def _write(box: Toolbox, source: Path, form: Form, target: Path) -> None:
    folder = target.parent
    argv: list[str | Path]
    if form.flat:
        argv = ["bash", "-c", 'exec makedumpfile "${@:2}" >"$1"', "sh", target, *form.options, source]
    else:
        argv = ["makedumpfile", *form.options, source, target]
    done = box.run(argv, binds=[folder])
    if done.returncode:
        raise RuntimeError(f"makedumpfile {' '.join(form.options)}: {(done.stdout + done.stderr)[-500:]}")
