from worker.amqp import QueueTopology
from worker.amqp.topology import mismatch

SAID = (
    "PRECONDITION_FAILED - inequivalent arg '{}' for queue 'q.retry.5' in vhost '/': "
    "received the value '5000' of type 'signedint' but current is {}"
)


def test_a_jobs_queue_comes_with_its_dead_letters_retries_and_replies():
    topology = QueueTopology("q", reply_queue="answers", retry_delays=(5, 30))
    assert [queue.name for queue in topology.queues()] == ["q.dead", "q.retry.5", "q.retry.30", "answers", "q"]
    assert (topology.dead, topology.retry(30)) == ("q.dead", "q.retry.30")


def test_all_of_them_are_quorum_queues():
    topology = QueueTopology("q", reply_queue="answers", retry_delays=(5,))
    assert {queue.arguments["x-queue-type"] for queue in topology.queues()} == {"quorum"}


def test_a_retry_queue_leads_back_surely_when_its_time_is_over():
    _, retry, _ = QueueTopology("q", retry_delays=(5,)).queues()
    assert retry.exact
    assert retry.arguments["x-message-ttl"] == 5000
    assert retry.arguments["x-dead-letter-routing-key"] == "q"
    assert (retry.arguments["x-dead-letter-strategy"], retry.arguments["x-overflow"]) == (
        "at-least-once",
        "reject-publish",
    )


def test_what_the_broker_drops_goes_to_the_dead_letters():
    *_, queue = QueueTopology("q").queues()
    assert (queue.arguments["x-dead-letter-exchange"], queue.arguments["x-dead-letter-routing-key"]) == ("", "q.dead")


def test_a_mismatch_names_both_sides_and_what_to_do():
    _, retry, _ = QueueTopology("q", retry_delays=(5,)).queues()
    assert mismatch(retry, SAID.format("x-message-ttl", "the value '7000' of type 'signedint'")) == (
        "the broker's queue q.retry.5 has x-message-ttl 7000, and the worker declares 5000; "
        'delete it, or declare it yourself and set declare = "passive"'
    )
    assert "has x-message-ttl none, and the worker" in mismatch(retry, SAID.format("x-message-ttl", "none"))
    assert mismatch(retry, "something else").startswith("the queue q.retry.5 exists, but with other arguments; delete")
