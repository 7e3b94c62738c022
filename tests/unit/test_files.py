import errno
import os
import shutil
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from worker import files
from worker.errors import sentence


@pytest.fixture
def one_file_system():
    pass


@pytest.fixture
def other_file_system(monkeypatch, tmp_path):
    """Makes the archive lie on a file system of its own."""
    archive, link = tmp_path / "archive", os.link

    def refuse(source, target, **options):
        if Path(target).parent == archive != Path(source).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def no_hard_links(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("clients.csv", "clients", ".csv"),
        ("clients.csv.gz", "clients", ".csv.gz"),
        ("clients.gz", "clients", ".gz"),
        ("a.b.csv", "a.b", ".csv"),
        ("clients", "clients", ""),
        (".csv", ".csv", ""),
        ("two words $1 čaj.CSV.GZ", "two words $1 čaj", ".CSV.GZ"),
    ],
)
def test_a_name_has_a_stem_and_a_suffix(name, stem, suffix):
    assert files.split_name(name) == (stem, suffix)


def test_the_id_goes_before_the_suffix():
    assert files.with_id("clients.csv.gz", "3f9a1c2b") == "clients-3f9a1c2b.csv.gz"


@pytest.mark.parametrize("name", ["clients.csv", "č" * 110])
def test_ordinary_names_have_no_fault(name):
    assert files.name_fault(name) == ""


def test_a_name_that_leaves_no_room_for_an_id_is_a_fault():
    assert "longer than 220 bytes" in files.name_fault("č" * 111)


def test_a_name_that_is_not_utf_8_is_a_fault():
    assert "not UTF-8" in files.name_fault(os.fsdecode(b"a\xff.csv"))


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    files.write(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert names(tmp_path) == ["a.json"]


def test_a_file_is_hidden_until_it_is_published(tmp_path):
    target = tmp_path / "a.csv"
    with files.aside(target) as file:
        file.write(b"data")
        assert names(tmp_path) == [".a.csv.part"]
    files.publish(target)
    assert names(tmp_path) == ["a.csv"]


def test_what_an_earlier_owner_still_writes_goes_nowhere(tmp_path):
    target = tmp_path / "a.csv"
    with files.hidden(target).open("wb") as slow:
        with files.aside(target) as file:
            file.write(b"new")
            slow.write(b"old")
            slow.flush()
        files.publish(target)
    assert target.read_bytes() == b"new"


def test_writing_overwrites_nothing(tmp_path):
    (tmp_path / "a.json").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_without_hard_links_writing_overwrites_nothing_either(tmp_path, no_hard_links):
    files.write(tmp_path / "a.json", b"old")
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_an_error_of_the_file_system_is_not_taken_for_missing_links(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.write(tmp_path / "a.json", b"{}")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_is_told_with_what_was_being_written_and_what_to_do(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write(tmp_path / "a.json", b"{}")
    assert sentence(caught.value) == f"No space left on device: {tmp_path}/.a.json.part; make room on that disk"


@pytest.mark.parametrize("file_system", ["one_file_system", "other_file_system", "no_hard_links"])
def test_a_file_is_moved(tmp_path, request, file_system):
    request.getfixturevalue(file_system)
    source, target = tmp_path / "a.csv", tmp_path / "archive" / "a.csv"
    target.parent.mkdir()
    source.write_bytes(b"data")
    os.utime(source, (1_000_000, 1_000_000))
    files.move(source, target)
    assert (target.read_bytes(), target.stat().st_mtime) == (b"data", 1_000_000)
    assert (names(tmp_path), names(target.parent)) == (["archive"], ["a.csv"])


@pytest.mark.parametrize("file_system", ["one_file_system", "other_file_system", "no_hard_links"])
def test_a_move_overwrites_nothing(tmp_path, request, file_system):
    request.getfixturevalue(file_system)
    source, target = tmp_path / "a.csv", tmp_path / "archive" / "a.csv"
    target.parent.mkdir()
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.move(source, target)
    assert (source.read_bytes(), target.read_bytes()) == (b"new", b"old")


def test_a_move_that_a_crash_left_half_done_is_finished(tmp_path):
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_bytes(b"data")
    target.hardlink_to(source)
    files.move(source, target)
    assert names(tmp_path) == ["b.csv"]


def test_a_source_is_put_away_under_its_own_name(tmp_path):
    source, archive = tmp_path / "x", tmp_path / "archive"
    archive.mkdir()
    source.write_bytes(b"data")
    assert files.put_away(source, archive, "a.csv", "3f9a1c2b") == archive / "a.csv"
    assert not source.exists()


def test_a_source_whose_name_is_taken_is_put_away_with_its_id(tmp_path):
    source, archive = tmp_path / "x", tmp_path / "archive"
    archive.mkdir()
    (archive / "a.csv").write_bytes(b"data")
    source.write_bytes(b"data")
    assert files.put_away(source, archive, "a.csv", "3f9a1c2b") == archive / "a-3f9a1c2b.csv"
    assert names(archive) == ["a-3f9a1c2b.csv", "a.csv"]


@pytest.mark.parametrize("copied_to", ["a.csv", "a-3f9a1c2b.csv"])
def test_a_source_that_was_copied_away_before_a_crash_is_only_removed(tmp_path, copied_to):
    source, archive = tmp_path / "x", tmp_path / "archive"
    archive.mkdir()
    (archive / "a.csv").write_bytes(b"other")
    source.write_bytes(b"data")
    shutil.copy2(source, archive / copied_to)
    assert files.put_away(source, archive, "a.csv", "3f9a1c2b", again=True) == archive / copied_to
    assert not source.exists()


def test_the_same_file_that_was_put_away_before_is_not_taken_for_a_copy_by_the_first_owner(tmp_path):
    source, archive = tmp_path / "x", tmp_path / "archive"
    archive.mkdir()
    source.write_bytes(b"data")
    shutil.copy2(source, archive / "a.csv")
    assert files.put_away(source, archive, "a.csv", "3f9a1c2b") == archive / "a-3f9a1c2b.csv"
    assert names(archive) == ["a-3f9a1c2b.csv", "a.csv"]


def test_a_source_is_kept_where_both_its_names_are_taken_by_others(tmp_path):
    source, archive = tmp_path / "x", tmp_path / "archive"
    archive.mkdir()
    (archive / "a.csv").write_bytes(b"other")
    (archive / "a-3f9a1c2b.csv").write_bytes(b"another")
    source.write_bytes(b"data")
    with pytest.raises(FileExistsError):
        files.put_away(source, archive, "a.csv", "3f9a1c2b")
    assert source.read_bytes() == b"data"


def test_two_sources_of_one_name_that_are_copied_away_at_once_are_kept_apart(tmp_path, monkeypatch, other_file_system):
    archive, copyfileobj = tmp_path / "archive", shutil.copyfileobj
    archive.mkdir()
    sources = [tmp_path / "first", tmp_path / "second"]
    for source in sources:
        source.write_bytes(source.name.encode())

    def meanwhile(original, twin, size):
        copyfileobj(original, twin, size)
        if sources[1].exists():
            monkeypatch.setattr(shutil, "copyfileobj", copyfileobj)
            files.put_away(sources[1], archive, "a.csv", "22222222")

    monkeypatch.setattr(shutil, "copyfileobj", meanwhile)
    files.put_away(sources[0], archive, "a.csv", "11111111")
    assert {name: (archive / name).read_bytes() for name in names(archive)} == {
        "a-11111111.csv": b"first",
        "a.csv": b"second",
    }
    assert names(tmp_path) == ["archive"]


def test_a_private_folder_is_for_its_owner_only(tmp_path):
    assert files.private_folder(tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_what_could_not_be_written_whole_leaves_nothing_behind(tmp_path):
    target = tmp_path / "results.csv"
    with pytest.raises(OSError, match="full"), files.aside(target) as file:
        file.write(b"half")
        raise OSError("the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_a_durable_folder_has_the_name_of_every_new_parent_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.durable_folder(tmp_path / "work" / "3f9a1c2b" / "input")
    assert synced == [tmp_path, tmp_path / "work", tmp_path / "work" / "3f9a1c2b"]
    assert (tmp_path / "work" / "3f9a1c2b" / "input").stat().st_mode & 0o777 == 0o700
    files.durable_folder(tmp_path / "work" / "3f9a1c2b" / "input")
    assert len(synced) == 3


def test_an_fsync_of_a_folder_serves_all_who_came_before_it_began(tmp_path, monkeypatch):
    begun, go_on, synced, come, tickets = threading.Event(), threading.Event(), [], [], count(1)

    def ticket():
        come.append(number := next(tickets))
        return number

    def slow(folder):
        synced.append(folder)
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(files, "_sync_folder", slow)
    monkeypatch.setattr(files._turn_of(tmp_path), "_count", iter(ticket, None))
    first = threading.Thread(target=files.sync_folder, args=(tmp_path,))
    first.start()
    assert begun.wait(10)
    waiting = [threading.Thread(target=files.sync_folder, args=(tmp_path,)) for _ in range(5)]
    for thread in waiting:
        thread.start()
    while len(come) < 7:  # the first one's, its fsync's, and five
        time.sleep(0.001)
    go_on.set()
    for thread in (first, *waiting):
        thread.join()
    assert synced == [tmp_path, tmp_path], "one was under way when the five came, which is too early for their names"


def test_an_fsync_that_fails_serves_nobody(tmp_path, monkeypatch):
    def broken(folder):
        raise OSError("the disk is broken")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="broken"):
        patched.setattr(files, "_sync_folder", broken)
        files.sync_folder(tmp_path)
    synced = []
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    files.sync_folder(tmp_path)
    assert synced == [tmp_path]


def disk(*, block=4096, blocks=1000, left=500, inodes=100, inodes_left=50, flags=0):
    return os.statvfs_result((block, block, blocks, left, left, inodes, inodes_left, inodes_left, flags, 255))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (disk(), ""),
        (disk(left=16), ""),
        (disk(left=15), "is full (61,440 bytes are left); make room"),
        (disk(blocks=0, left=0), ""),  # a share that tells nothing
        (disk(inodes_left=0), "has no inode left for another file, whatever room it has; remove some files"),
        (disk(inodes=0, inodes_left=0), ""),  # a file system without inodes to run out of
        (disk(left=0, flags=os.ST_RDONLY), "is read-only; mount it for writing again"),
    ],
)
def test_a_disk_that_takes_nothing_is_told_from_one_that_does(tmp_path, found, said):
    assert files.disk_fault(tmp_path, look=lambda _: found) == said


def test_a_disk_that_does_not_answer_is_told_and_a_folder_that_is_not_there_has_none(tmp_path):
    def stale(folder):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    assert files.disk_fault(tmp_path, look=stale).startswith(f"cannot be looked at: {os.strerror(errno.ESTALE)}; see")
    assert files.disk_fault(tmp_path / "none") == ""
