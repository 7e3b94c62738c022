import threading

import pytest
from deliveries import DIGEST, delivery

from worker.context import DeliveryContext
from worker.errors import DeliveryError, Interrupted, Paused
from worker.records import RowKey


class Backend:
    """Notes what it is opened for; its sessions say which row they are used for."""

    def __init__(self, name, kind):
        self.name, self.kind, self.opened = name, kind, []

    def open(self, meter, stop, folder):
        self.opened.append((meter, stop))
        return Session(self.name)


class Session:
    def __init__(self, name):
        self.name = name

    def at(self, key):
        return self.name, key


class Setting:
    def __init__(self, *backends, kept=None):
        self.loads = 0
        self.kept = kept or {}
        self.stop = threading.Event()
        self.delivery = delivery(job="summary")
        named = {backend.name: backend for backend in backends}
        self.shared = DeliveryContext(self.delivery, named, self.load, lambda: self.stop)
        self.context = self.shared.at(9)

    @property
    def state(self):
        return self.shared.state

    def load(self, job):
        assert job == "summary"
        self.loads += 1
        return self.kept


def test_backends_are_found_by_kind_and_name():
    context = Setting(Backend("billing", "rest"), Backend("crm", "rest"), Backend("ehr", "fhir")).context
    assert context.rest["billing"] == ("billing", RowKey(DIGEST, 9))
    assert context.fhir["ehr"][0] == "ehr"
    assert (list(context.rest), list(context.fhir)) == (["billing", "crm"], ["ehr"])
    assert (len(context.rest), "crm" in context.rest, "ehr" in context.rest) == (2, True, False)


def test_no_backend_is_opened_before_a_power_cut_could_not_make_the_ledger_forget_the_delivery():
    billing = Backend("billing", "rest")
    setting = Setting(billing)
    setting.delivery.secure = lambda: order.append(len(billing.opened))
    order = []
    assert list(setting.context.rest) == ["billing"]
    assert order == [], "nobody is called yet"
    setting.context.rest["billing"]
    assert (order, len(billing.opened)) == ([0], 1)


def test_where_the_ledger_cannot_be_made_to_remember_the_delivery_waits_and_no_backend_is_opened():
    def secure():
        raise Paused("the ledger cannot be used: Input/output error")

    billing = Backend("billing", "rest")
    setting = Setting(billing)
    setting.delivery.secure = secure
    with pytest.raises(Interrupted) as interrupted:
        setting.context.rest["billing"]
    assert isinstance(interrupted.value.reason, Paused)
    assert Interrupted.met() is interrupted.value
    assert billing.opened == []


def test_a_backend_is_opened_once_for_a_delivery_and_only_when_it_is_used():
    billing, unused = Backend("billing", "rest"), Backend("crm", "rest")
    setting = Setting(billing, unused)
    for line in (2, 3):
        assert setting.shared.at(line).rest["billing"] == ("billing", RowKey(DIGEST, line))
    assert billing.opened == [(setting.delivery.meter, setting.stop)]
    assert unused.opened == []


@pytest.mark.parametrize("used_before", [False, True])
def test_a_backend_that_is_not_configured_makes_the_delivery_unusable(used_before):
    context = Setting(Backend("billing", "rest"), Backend("ehr", "fhir")).context
    if used_before:
        context.fhir["ehr"]
    with pytest.raises(DeliveryError, match=r"rest backend 'biling', which is not configured; did you mean 'billing'"):
        context.rest["biling"]
    with pytest.raises(DeliveryError, match="rest backend 'ehr', which is not configured"):
        context.rest["ehr"]


def test_all_rows_share_the_state():
    setting = Setting()
    assert setting.context.state is setting.shared.at(3).state


def test_a_job_knows_its_delivery_and_cannot_change_it():
    setting = Setting()
    its, seen = setting.delivery, setting.context.delivery
    assert (seen.id, seen.source, seen.trigger) == (its.id, its.source, its.trigger)
    assert (seen.attempts, seen.started.timestamp(), seen.input) == (its.attempts, its.started, its.input)
    for name in ("id", "source", "trigger", "attempts", "started", "input"):
        with pytest.raises(AttributeError):
            setattr(seen, name, None)
    seen.input.sha256 = "0"
    assert its.input.sha256 != "0"
    assert not hasattr(seen, "settle")


def test_a_jobs_own_log_lines_say_where_they_come_from(capture_log):
    Setting().context.log.info("plan unknown", plan="x")
    assert capture_log == [
        {
            "event": "plan unknown",
            "log_level": "info",
            "plan": "x",
            "delivery": "3f9a1c2b",
            "job": "summary",
            "line": 9,
        }
    ]


def test_a_state_has_what_was_kept_and_what_was_changed():
    setting = Setting(kept={"since": "2026-11-22", "page": 3})
    setting.state["since"] = "2026-11-23"
    setting.state["new"] = [1]
    assert dict(setting.state) == {"since": "2026-11-23", "page": 3, "new": [1]}
    assert (len(setting.state), setting.state.get("unknown")) == (3, None)


def test_only_what_was_changed_is_to_be_kept():
    setting = Setting(kept={"since": "2026-11-22", "page": 3})
    setting.state["since"] = "2026-11-23"
    assert setting.delivery.state == {"since": "2026-11-23"}
    assert setting.kept == {"since": "2026-11-22", "page": 3}


def test_a_state_is_loaded_once_and_only_if_it_is_read():
    setting = Setting(kept={"page": 3})
    setting.state["page"] = 4
    assert setting.loads == 0
    assert [setting.state["page"], list(setting.state)] == [4, ["page"]]
    assert setting.loads == 1


def test_what_has_no_json_form_is_refused_where_it_is_set():
    setting = Setting()
    with pytest.raises(TypeError):
        setting.state["since"] = object()
    assert setting.delivery.state == {}


@pytest.mark.parametrize("name", ["x" * 1001, "ř" * 501, "a\0b"])
def test_a_name_in_a_state_that_a_ledger_could_not_keep_is_refused_where_it_is_set(name):
    setting = Setting()
    setting.state["ř" * 500] = 1
    with pytest.raises(TypeError, match="at most 1000 bytes, and no zero character"):
        setting.state[name] = 1
    assert list(setting.delivery.state) == ["ř" * 500]


def test_a_name_in_a_state_is_a_text():
    setting = Setting()
    with pytest.raises(TypeError, match="are texts, and no int"):
        setting.state[5] = "five"
    assert setting.delivery.state == {}


def test_what_a_job_makes_of_a_value_later_is_not_set():
    setting = Setting()
    seen = [1]
    setting.state["seen"] = seen
    seen.append(object())
    assert setting.delivery.state == {"seen": [1]}


def test_a_state_is_not_deleted():
    setting = Setting(kept={"page": 3})
    with pytest.raises(TypeError, match="set it to None"):
        del setting.state["page"]
