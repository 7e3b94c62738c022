"""What a power cut cannot take away of a message: the order of the system calls on its way, as strace sees them."""

import sys

import pytest
from acceptance.order_server import OrderServer
from message_worker import Asker, MessageWorker
from tracing import traced

CALLS = "pwrite64,fsync,fdatasync,sendto,sendmsg"


@pytest.fixture
def asker(broker_url):
    asker = Asker(broker_url)
    asker.declare("replies", "orders")
    return asker


def test_the_claim_is_on_disk_before_a_call_is_made_and_the_end_before_the_reply_is_sent(tmp_path, broker_url, asker):
    with OrderServer(delay=0) as orders:
        project = MessageWorker(tmp_path / "project", broker_url, orders.url)
        asker.ask({"client": "10000"}, message_id="the-one-message")
        program = [sys.executable, "-m", "worker", "--config", project.folder / "longshore.toml", "run", "--once"]
        calls = traced(program, CALLS, tmp_path / "strace.log", texts=5_000)
    asker.check()

    def named(*texts):
        return [call for call in calls if all(text in call.text for text in texts)]

    written = named("pwrite64", "state.db-wal", "the-one-message")
    synced = named("sync(", "state.db-wal")
    (call,), (reply,) = named("send", "POST /orders"), named("send", "the-one-message", r"\"order\":")

    def is_on_disk_before(line, pages):
        return any(pages[-1].ended < sync.begun and sync.ended < line for sync in synced)

    claim = [page for page in written if page.begun < call.begun]
    end = [page for page in written if call.ended < page.begun < reply.begun]
    assert is_on_disk_before(call.begun, claim)
    assert is_on_disk_before(reply.begun, end)
