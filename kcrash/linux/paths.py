"""Names of open and mapped files, as the kernel would print them (fs/d_path.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_PARTS = 4096
MAX_NAME = 4096
DELETED = b" (deleted)"


@dataclass(frozen=True, slots=True)
class Path:
    """``struct path``: addresses of a dentry and of a struct vfsmount."""

    dentry: int
    mnt: int


class _Offsets:
    """Members of dentries and mounts; ``mount`` is from a struct mount to its struct vfsmount."""

    def __init__(self, session: Session) -> None:
        offset = session.types.offset
        dentry = session.types.first_member("struct dentry", ("d_name.name", "__d_name.name"))
        name = (dentry or "d_name.name").removesuffix(".name")
        self.parent = offset("struct dentry", "d_parent")
        self.name = offset("struct dentry", f"{name}.name")
        self.length = offset("struct dentry", f"{name}.len")
        self.hashed = offset("struct dentry", "d_hash.pprev")
        self.ops = offset("struct dentry", "d_op")
        self.inode = offset("struct dentry", "d_inode")
        self.mount = offset("struct mount", "mnt")
        self.mnt_parent = offset("struct mount", "mnt_parent")
        self.mountpoint = offset("struct mount", "mnt_mountpoint")
        self.mnt_root = offset("struct vfsmount", "mnt_root")
        self.dname = offset("struct dentry_operations", "d_dname")


def _offsets(session: Session) -> _Offsets:
    return session.memo("path offsets", lambda: _Offsets(session))


def read_path(session: Session, address: int) -> Path:
    """Decode a ``struct path``."""
    offset = session.types.offset
    word = session.memory.word
    return Path(word(address + offset("struct path", "dentry")), word(address + offset("struct path", "mnt")))


def file_path(session: Session, file: int, root: Path | None = None) -> bytes:
    """The name of an open ``struct file``; see `d_path`."""
    return d_path(session, read_path(session, file + session.types.offset("struct file", "f_path")), root)


def task_root(session: Session, task: int) -> Path | None:
    """The root directory of a task (its task_struct's address); None where it has none any more."""
    fs = session.memory.word(task + session.types.offset("struct task_struct", "fs"))
    return read_path(session, fs + session.types.offset("struct fs_struct", "root")) if fs else None


def d_path(session: Session, path: Path, root: Path | None = None) -> bytes:
    """What d_path() would give to a task whose root directory is ``root`` (None: the real root).

    Raises MemoryFault, or KcrashError for a name that leads nowhere.
    """
    made = _synthetic(session, path)
    if made is not None:
        return made
    at, word = _offsets(session), session.memory.word
    is_root = word(path.dentry + at.parent) == path.dentry
    unlinked = not is_root and not word(path.dentry + at.hashed)
    return _prepend(session, path, root) + (DELETED if unlinked else b"")


def _name(session: Session, dentry: int) -> bytes:
    at, memory = _offsets(session), session.memory
    length = min(memory.u32(dentry + at.length), MAX_NAME)
    return memory.read(memory.word(dentry + at.name), length)


def _prepend(session: Session, path: Path, root: Path | None) -> bytes:
    """The way up to the root, over mount points (__prepend_path())."""
    at, word = _offsets(session), session.memory.word
    parts: list[bytes] = []
    dentry, mnt = path.dentry, path.mnt
    for _ in range(MAX_PARTS):
        if root is not None and dentry == root.dentry and mnt == root.mnt:
            return b"".join(reversed(parts)) or b"/"
        parent = word(dentry + at.parent)
        if dentry == word(mnt + at.mnt_root):
            mount = mnt - at.mount
            above = word(mount + at.mnt_parent)
            if above == mount:
                return b"".join(reversed(parts)) or b"/"
            dentry, mnt = word(mount + at.mountpoint), above + at.mount
            continue
        if dentry == parent:  # moved out of what is mounted
            return b"".join(reversed(parts)) or b"/"
        parts.append(b"/" + _name(session, dentry))
        dentry = parent
    raise KcrashError(f"the path of dentry {path.dentry:x} has no end")


def _synthetic(session: Session, path: Path) -> bytes | None:
    """Files without a directory make up their names (d_dname)."""
    at, word = _offsets(session), session.memory.word
    ops = word(path.dentry + at.ops)
    maker = word(ops + at.dname) if ops else 0
    is_root = word(path.dentry + at.parent) == path.dentry
    if not maker or (is_root and path.dentry == word(path.mnt + at.mnt_root)):
        return None
    found = session.symbols.at(maker)
    name = _name(session, path.dentry)
    kind = found[0].name if found else ""
    if kind == "anon_inodefs_dname":
        return b"anon_inode:" + name
    prefix = {"sockfs_dname": b"socket", "pipefs_dname": b"pipe"}.get(kind)
    if prefix is not None:
        return prefix + b":[%d]" % _inode_number(session, path.dentry)
    if kind == "dmabuffs_dname":
        return b"/dmabuf:"
    return b"/" + name + DELETED  # simple_dname()


def _inode_number(session: Session, dentry: int) -> int:
    inode = session.memory.word(dentry + _offsets(session).inode)
    return session.memory.word(inode + session.types.offset("struct inode", "i_ino"))
