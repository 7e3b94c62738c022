import os
import subprocess
import sys

import pytest

from worker.owner import Owner, is_gone


@pytest.fixture
def owner(tmp_path):
    owner = Owner(tmp_path / "workers", machine="here")
    yield owner
    owner.close()


def test_a_name_says_the_machine_and_the_process(owner):
    machine, pid, nonce = owner.name.split(".")
    assert (machine, pid, len(nonce)) == ("here", str(os.getpid()), 8)


def test_an_owner_leaves_a_private_trace_while_it_lives(owner, tmp_path):
    folder = tmp_path / "workers"
    assert [path.name for path in folder.iterdir()] == [owner.name]
    assert (folder / owner.name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_one_is_never_gone_to_oneself(owner):
    assert not owner.gone(owner.name)


def test_one_that_lives_is_not_gone(owner, tmp_path):
    other = Owner(tmp_path / "workers", machine="here")
    assert not owner.gone(other.name)
    other.close()


def test_somebody_who_is_no_worker_can_tell_who_is_gone(owner, tmp_path):
    folder = tmp_path / "workers"
    name = killed(tmp_path)
    assert is_gone(folder, name, machine="here")
    assert not is_gone(folder, owner.name, machine="here")
    assert not is_gone(folder, name, machine="there")
    assert not is_gone(tmp_path / "nowhere", name, machine="here")


def test_one_that_was_killed_is_gone_at_once(owner, tmp_path):
    name = killed(tmp_path)
    assert (tmp_path / "workers" / name).exists()
    assert owner.gone(name)


def test_one_that_was_killed_is_gone_at_once_though_a_process_that_its_job_forked_lives_on(owner, tmp_path):
    ours, its = os.pipe()
    name = killed(tmp_path, f"if os.fork() == 0: os.close(1); os.read({ours}, 1); os._exit(0)", keep=ours)
    assert owner.gone(name)
    os.close(its)
    os.close(ours)


def killed(tmp_path, before="pass", keep=0):
    """A process that becomes an owner, does something, and dies without a word."""
    code = (
        "import os, pathlib, sys; from worker.owner import Owner\n"
        f"print(Owner(pathlib.Path({str(tmp_path / 'workers')!r}), machine='here').name, flush=True)\n"
        f"{before}\nos._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[keep], text=True, check=False, timeout=20
    )
    return done.stdout.strip()


def test_one_of_another_machine_is_not_judged(owner):
    assert not owner.gone("there.1.00000000")


def test_one_without_a_trace_is_not_judged(owner):
    assert not owner.gone("here.1.00000000")


def test_nobody_is_not_gone(owner):
    assert not owner.gone("")


def test_the_dead_are_swept_away_unless_they_still_own_something(owner, tmp_path):
    folder = tmp_path / "workers"
    for name in ("here.1.00000000", "here.2.00000000", "there.3.00000000"):
        (folder / name).touch()
    owner.sweep({"here.1.00000000"})
    assert sorted(path.name for path in folder.iterdir()) == sorted(["here.1.00000000", "there.3.00000000", owner.name])


def test_whoever_leaves_in_good_order_leaves_no_trace(tmp_path):
    Owner(tmp_path / "workers").close()
    assert list((tmp_path / "workers").iterdir()) == []
