"""Files that survive: what appears under its name is whole, durable, and overwrites nothing.

The order is always the same: the file's data is fsynced before its name appears, its folder before anybody is told.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import BinaryIO

NAME_BYTES = 220  # leaves room for what is added to a name: ids, .manifest.json, .part
_LONGEST_NAME = 255  # bytes, of the file systems that there are

_ROOM = 64 * 1024  # bytes; with less left, the ledger's next change may find none, or a chunk of outcomes

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


def split_name(name: str) -> tuple[str, str]:
    """A file's name as stem and suffix, ``.gz`` and its like kept with what stands before: ``a.csv.gz`` -> ``.csv.gz``.

    Names with dots inside (``a.b.csv``) lose only their last suffix.
    """
    path = Path(name)
    suffix = path.suffix
    if suffix.lower() == ".gz":
        suffix = Path(path.stem).suffix + suffix
    return name[: len(name) - len(suffix)] or name, suffix if len(suffix) < len(name) else ""


def name_fault(name: str) -> str:
    """Why a file of this name cannot be taken in; empty if it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return f"its name is longer than {NAME_BYTES} bytes; rename it" if size > NAME_BYTES else ""


def with_id(name: str, delivery: str) -> str:
    """``clients.csv`` -> ``clients-3f9a1c2b.csv``."""
    stem, suffix = split_name(name)
    return f"{stem}-{delivery}{suffix}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, together with those of whoever asks meanwhile."""
    _turn_of(folder).take()


class _Turn:
    """The fsyncs of one folder: one that begins after somebody has come covers everybody who has come by then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._count = count(1)
        self._covered = 0

    def take(self) -> None:
        ticket = next(self._count)
        with self._lock:
            if ticket > self._covered:
                begun = next(self._count)
                _sync_folder(self._folder)
                self._covered = begun


@lru_cache(maxsize=64)  # who finds another turn in use than somebody else only makes an fsync of its own
def _turn_of(folder: Path) -> _Turn:
    return _Turn(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync(file: BinaryIO) -> None:
    """Make a file's data durable."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What goes wrong with a file that is open says which one, as what goes wrong with its name does by itself."""
    try:
        yield
    except OSError as error:
        if error.strerror and not error.filename:
            error.filename = str(path)
        raise


@contextmanager
def aside(target: Path, by: str = "") -> Iterator[BinaryIO]:
    """A new hidden file beside ``target``, fsynced at the end; it is for ``publish`` to give it its name."""
    path = hidden(target, by)
    path.unlink(missing_ok=True)  # a slow earlier owner may still hold the old one open
    try:
        with named(path), path.open("xb") as file:
            yield file
            sync(file)
    except BaseException:
        path.unlink(missing_ok=True)  # a full disk has no room for half a file
        raise


def hidden(target: Path, by: str = "") -> Path:
    """Where a file is written until it may be seen; no trigger picks up such a name.

    ``by`` keeps apart those that may want one name at the same time.
    """
    end = f".{by}.part" if by else ".part"
    name = f".{target.name}{end}"
    if len(os.fsencode(name)) > _LONGEST_NAME:  # the target's own name may leave no room
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{end}"
    return target.with_name(name)


def publish(target: Path, by: str = "") -> None:
    """Give what was written ``aside`` its name; raises ``FileExistsError`` if that is taken."""
    _link_or_move(hidden(target, by), target)
    sync_folder(target.parent)


def write(target: Path, data: bytes, by: str = "") -> None:
    """A whole new file at once; raises ``FileExistsError`` if the name is taken."""
    with aside(target, by) as file:
        file.write(data)
    _publish_or_remove(target, by)


def move(source: Path, target: Path, by: str = "", guard: Callable[[], None] = lambda: None) -> None:
    """Move a file, also to another file system; raises ``FileExistsError`` if the name is taken by another file.

    If a crash left the file under both names, the move is finished. ``guard`` may still object after a long copy.
    """
    try:
        _link_or_move(source, target)
    except FileExistsError:
        if not target.samefile(source):
            raise
        source.unlink()
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(source, target, by, guard)
        source.unlink()
    sync_folder(target.parent)


def copy(source: Path, target: Path, by: str = "", guard: Callable[[], None] = lambda: None) -> None:
    """A durable copy under a new name; raises ``FileExistsError`` if that is taken, and whatever ``guard`` raises."""
    with source.open("rb") as original, aside(target, by) as twin:
        shutil.copyfileobj(original, twin, 1 << 20)
        twin.flush()
        shutil.copystat(source, hidden(target, by))
    _publish_or_remove(target, by, guard)


def _publish_or_remove(target: Path, by: str, guard: Callable[[], None] = lambda: None) -> None:
    try:
        guard()
        publish(target, by)
    finally:
        hidden(target, by).unlink(missing_ok=True)


def _link_or_move(source: Path, target: Path) -> None:
    """Rename without overwriting: a link fails where the name is taken; where there are no links, reserve the name."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        source.replace(target)
    else:
        with suppress(FileNotFoundError):
            source.unlink()


def put_away(
    source: Path,
    folder: Path,
    name: str,
    delivery: str,
    *,
    by: str = "",
    guard: Callable[[], None] = lambda: None,
    again: bool = False,
) -> Path:
    """Move a delivery's source into ``folder``, under its own name or, if that is taken, with the id in it.

    ``again``: another worker may have done it and died before it could remove the source.
    """
    for candidate in (folder / name, folder / with_id(name, delivery)):
        with suppress(FileExistsError):
            move(source, candidate, by or delivery, guard)
            return candidate
        if again and _is_copy(source, candidate):
            source.unlink()
            return candidate
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(candidate))


def _is_copy(source: Path, target: Path) -> bool:
    same_time = source.stat().st_mtime_ns == target.stat().st_mtime_ns
    return same_time and filecmp.cmp(source, target, shallow=False)


def private_folder(path: Path) -> Path:
    """A folder that only its owner may look into, made if missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def durable_folder(path: Path) -> None:
    """The same, and a power cut does not take away its name, nor that of a parent that was missing, too."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def disk_fault(folder: Path, *, look: Callable[[Path], os.statvfs_result] = os.statvfs) -> str:
    """Why nothing can be written on the disk that a folder is on, and what to do; empty if it can, or as far as known.

    A folder that is not there has no disk. A quota is not seen.
    """
    try:
        disk = look(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be looked at: {error.strerror}; see whether it is still mounted"
    left = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        return "is read-only; mount it for writing again"
    if disk.f_blocks and left < _ROOM:  # some network shares tell nothing
        return f"is full ({left:,} bytes are left); make room"
    if disk.f_files and not disk.f_favail:
        return "has no inode left for another file, whatever room it has; remove some files"
    return ""
