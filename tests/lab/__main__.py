"""python -m tests.lab: makes what is missing, prints where it is."""

from __future__ import annotations

import argparse
import time

from tests.lab import boots, forms, kernels, lab, old_kernel, rare, streams, swaps, twins
from tests.lab.architectures import AMD64, ARCHITECTURES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument(
        "--kernel", action="append", help="one of " + ", ".join(kernels.SUITES) + " (6.1 and 6.12)"
    )
    parser.add_argument(
        "--form", action="append", choices=[*forms.FORMS], metavar="NAME", help="see --list (all)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="the scale variant: N sleeping threads"
    )
    parser.add_argument("--arch", default=AMD64.name, choices=[*ARCHITECTURES], help="the machine's (amd64)")
    parser.add_argument("--cpu", default="", help="QEMU's -cpu (max); max,la57=off for four-level tables")
    parser.add_argument("--twins", action="store_true", help="twin processes and a core, and nothing else")
    parser.add_argument("--rare", action="store_true", help="rare states and memory, and nothing else")
    parser.add_argument("--streams", action="store_true", help="QEMU's migration streams, and nothing else")
    parser.add_argument("--swaps", action="store_true", help="a process swapped out, and nothing else")
    parser.add_argument("--old", action="store_true", help="kernel 4.4, built here, and nothing else")
    parser.add_argument("--resident", type=int, default=0, metavar="MIB", help="--swaps: a large one instead")
    parser.add_argument("--refresh", action="store_true", help="ask for newer builds of the kernels")
    parser.add_argument("--prune", action="store_true", help="remove the dumps that older sources made")
    parser.add_argument("--list", action="store_true", help="name kernels and forms, make nothing")
    return parser.parse_args()


def _list() -> None:
    for version, suite in kernels.SUITES.items():
        made = [name for name in ARCHITECTURES if lab.cached(version, arch=name)]
        print(f"kernel {version:6} {suite:10} {' '.join(made) or '-'}")
    for form in forms.FORMS.values():
        print(f"form {form.name:22} at {form.moment:6} {' '.join(form.options)}")


def _make(version: str, options: argparse.Namespace) -> None:
    if options.refresh:
        kernels.kernel(version, ARCHITECTURES[options.arch], refresh=True)
    started = time.monotonic()
    made = lab.dumps(version, names=options.form, scale=options.threads, cpu=options.cpu, arch=options.arch)
    print(f"kernel {made.kernel.release} ({time.monotonic() - started:.1f} s)")
    if made.kernel.arch.debug:
        print(f"vmlinux {made.vmlinux}")
    print(f"modules {made.modules}\nroot {made.sysroot}")
    for name, path in made.forms.items():
        print(f"{name} {path}")


def main() -> None:
    """The command."""
    options = _arguments()
    if options.list:
        return _list()
    if options.prune:
        return boots.prune()
    if options.old:
        return print(old_kernel.old_kernel().vmlinux)
    for version in options.kernel or ("6.1", "6.12"):
        if options.streams:
            print(streams.streams(version))
        elif options.swaps or options.resident:
            print(swaps.swaps(version, resident=options.resident, arch=options.arch).folder)
        elif options.rare:
            print(rare.rare(version, arch=options.arch, cpu=options.cpu).folder)
        elif options.twins:
            print(twins.twins(version, arch=options.arch, cpu=options.cpu).core)
        else:
            _make(version, options)
    return None


if __name__ == "__main__":
    main()
