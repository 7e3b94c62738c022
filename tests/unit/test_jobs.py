import sys
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from worker.config import JobSettings
from worker.declare import Job, collected, job
from worker.errors import ConfigError, DeliveryError, Reject
from worker.jobs import Jobs, load
from worker.records import Row


class Client(BaseModel):
    id: int
    born: date | None = None
    plan: str = ""


@job(files="clients*.csv", queue="clients")
def summary(row: Row, ctx: Any) -> dict[str, Any]:
    """What a client pays for."""
    return {"id": row["id"], "ctx": ctx}


@job()
def typed(row: Client, ctx: Any) -> int:
    return row.id


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text("from worker.declare import job\n" + dedent(text))


def a_job(name: str, settings: str = "") -> str:
    return f"@job({settings})\ndef {name}(row, ctx): ...\n"


def problems(folder: Path, overrides: Mapping[str, JobSettings] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, overrides or {})
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_job_stays_callable_as_it_was():
    assert summary(Row({"id": "1"}), ctx="fake") == {"id": "1", "ctx": "fake"}


def test_a_job_is_named_and_described_by_its_function():
    assert (summary.name, summary.doc, summary.files, summary.queue) == (
        "summary",
        "What a client pays for.",
        ("clients*.csv",),
        "clients",
    )


def test_a_row_is_handed_over_as_it_is_without_a_model():
    row = Row({"id": "007"})
    assert summary.bind(row) is row


def test_a_model_is_made_from_the_strings_of_a_row():
    assert typed.bind(Row({"id": "007", "born": "1990-02-03", "plan": "x", "other": ""})) == Client(
        id=7, born=date(1990, 2, 3), plan="x"
    )


def test_a_model_is_made_from_the_values_of_a_message_too():
    assert typed.bind(Row({"id": 7, "born": None})) == Client(id=7)


def test_a_blank_value_is_none_only_where_the_field_allows_it():
    assert typed.bind(Row({"id": "7", "born": "", "plan": ""})) == Client(id=7, born=None, plan="")
    with pytest.raises(Reject, match=r"^id: "):
        typed.bind(Row({"id": ""}))


def test_a_blank_value_is_none_under_the_names_that_a_field_goes_by_in_files():
    class Named(BaseModel):
        one: int | None = Field(alias="first column")
        two: int | None = Field(validation_alias=AliasChoices("second column", "second"))

    @job()
    def named(row: Named, ctx: Any) -> None: ...

    assert named.bind(Row({"first column": "", "second": ""})).model_dump() == {"one": None, "two": None}


def test_binding_leaves_the_row_as_it_was():
    row = Row({"id": "7", "born": ""})
    typed.bind(row)
    assert row == {"id": "7", "born": ""}


def test_a_row_that_does_not_validate_is_rejected_with_each_reason_and_without_its_values():
    with pytest.raises(Reject) as caught:
        typed.bind(Row({"id": "secret", "born": "private"}))
    reasons = str(caught.value).split("; ")
    assert [reason.partition(":")[0] for reason in reasons] == ["id", "born"]
    assert "secret" not in str(caught.value)
    assert "private" not in str(caught.value)


def test_a_rejection_does_not_carry_pydantics_error_which_quotes_the_row():
    with pytest.raises(Reject) as caught:
        typed.bind(Row({"id": "secret"}))
    assert not isinstance(caught.value.__cause__ or caught.value.__context__, ValidationError)


def test_what_is_no_plain_function_of_row_and_ctx_is_no_job():
    async def later(row, ctx): ...

    with pytest.raises(TypeError, match="plain function"):
        job()(later)
    with pytest.raises(TypeError, match="plain function"):
        job()(Client)
    with pytest.raises(TypeError, match="two arguments"):
        job()(lambda row: None)


def test_declared_jobs_are_collected_only_meanwhile():
    with collected() as declared:
        made = job()(lambda row, ctx: None)
    job()(lambda row, ctx: None)
    assert declared == [made]


def test_jobs_are_found_in_all_files_but_those_with_an_underscore(folder):
    write(folder, b=a_job("second"), a=a_job("first") + a_job("other"), _shared=a_job("hidden"))
    jobs = load(folder, {})
    assert list(jobs) == ["first", "other", "second"]
    assert all(isinstance(job, Job) for job in jobs.values())


def test_a_job_file_may_import_its_neighbours_while_it_is_loaded(folder):
    write(folder, _plans_of_jobs="PLANS = 3\n", a="from _plans_of_jobs import PLANS\n" + a_job("first"))
    path = list(sys.path)
    assert list(load(folder, {})) == ["first"]
    assert sys.path == path


def test_a_job_file_may_import_what_jobs_share_as_its_test_imports_the_job(tmp_path, folder):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    write(jobs, _prices_of_jobs="PRICES = 3\n", a="from jobs._prices_of_jobs import PRICES\n" + a_job("first"))
    path = [*sys.path, str(tmp_path)]
    sys.path.append(str(tmp_path))  # as it is where the worker is started by `python -m` in the project's folder
    try:
        assert list(load(jobs, {})) == ["first"]
        assert sys.path == path
    finally:
        sys.path.pop()
    assert list(load(jobs, {})) == ["first"]


def test_a_job_file_may_be_named_like_a_library(folder):
    write(folder, requests=a_job("first"))
    import requests

    assert list(load(folder, {})) == ["first"]
    assert sys.modules["requests"] is requests


def test_a_model_is_found_behind_a_postponed_annotation(folder):
    (folder / "a.py").write_text(
        "from __future__ import annotations\nfrom pydantic import BaseModel\nfrom worker.declare import job\n"
        "class Client(BaseModel):\n    id: int\n@job()\ndef typed(row: Client, ctx: Elsewhere) -> int: ...\n"
    )
    assert load(folder, {})["typed"].bind(Row({"id": "7"})).model_dump() == {"id": 7}


def test_each_file_that_does_not_import_is_told_with_its_line(folder):
    write(
        folder,
        a="import surely_missing\n",
        b="def f(:\n",
        c="\n\nraise SystemExit('no')\n",
        d="@job()\ndef f(row, ctx: int, more): ...\n",
        e="@job()\ndef f(row: 'Nowhere', ctx): ...\n",
        f=a_job("fine"),
        g="@job()\ndef f(row, ctx): yield {}\n",
        h="@job(columns='a,b')\ndef f(row, ctx): ...\n",
        i="@job\ndef f(row, ctx): ...\n",
        j="@job(file='a*')\ndef f(row, ctx): ...\n",
    )
    assert problems(folder, {"f": JobSettings()}) == [
        "a.py: line 2: ModuleNotFoundError: No module named 'surely_missing'",
        "b.py: line 2: SyntaxError: invalid syntax",
        "c.py: line 4: SystemExit: no",
        "d.py: line 2: TypeError: a job takes two arguments, row and ctx; change f",
        "e.py: line 2: TypeError: the annotation of 'row': name 'Nowhere' is not defined; "
        "import it outside `if TYPE_CHECKING`",
        "g.py: line 2: TypeError: a job returns its results, it does not yield them; return a list in f",
        'h.py: line 2: TypeError: columns are a list of names; write e.g. columns=["client_id", "plan"]',
        "i.py: line 2: TypeError: job() takes 0 positional arguments but 1 was given; "
        'write its arguments with their names, as in @job(files="clients*.csv"), and @job() if there are none',
        "j.py: line 2: TypeError: job() got an unexpected keyword argument 'file'; did you mean 'files'?",
    ]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("files=''", "files[0]: must have at least 1 character"),
        ("files=[b'a*']", "files[0]: must be text"),
        ("files=['a.csv', 'b/*.csv']", "files: 'b/*.csv' is no pattern"),
        ("queue=''", "queue: must have at least 1 character"),
        ("queue=['a']", "queue: must be text; got a list"),
        ("queue='q', reply_queue=''", "reply_queue: must have at least 1 character"),
        ("queue='amq.q'", "queue: names that begin with amq. are the broker's own"),
        ("queue='q', prefetch=65_536", "prefetch: must be less than or equal to 65535; got 65536"),
        ("max_attempts='3'", "max_attempts: must be a whole number; got text"),
        ("max_attempts=True", "max_attempts: must be a number; got true or false"),
        ("retry_delay='x'", "retry_delay: must be a whole number; got text"),
        ("retry_delay=None", "retry_delay: must not be None; leave it out"),
        ("declare='never'", "declare: must be 'active' or 'passive'"),
        ("spreadsheet_safe='no'", "spreadsheet_safe: must be true or false; got text"),
        ("frame='no'", "frame: must be True or False"),
        ("reply_queue='r'", "reply_queue: there is no queue"),
        ("schedule='0 2 * * *'", "schedule: there is nothing to run"),
        ("source=list", "source: nothing would ask for its rows"),
        ("source=list, schedule='0 2 * * *', files='a'", "source: the ticks are for either"),
        ("source=list, schedule='0 2 * *'", "schedule: it has 4 fields; write five"),
        ("source=list, schedule='0 26 * * *'", "schedule: '26' is no hour; write 0 to 23"),
        ("source=lambda: [], schedule='0 2 * * *'", "source: it must be a plain function of one argument, ctx"),
        ("source='rows', schedule='0 2 * * *'", "source: it must be a plain function of one argument, ctx"),
        ("overlap='wait'", "overlap: must be 'skip' or 'queue'"),
        ("misfire='never'", "misfire: must be 'once', 'skip' or 'all'"),
        ("timezone='Europe/Nowhere'", "timezone: 'Europe/Nowhere' is unknown"),
        ("timezone='Europe/Prague'", "timezone: it is the schedule's; write schedule too"),
        ("timezone='Europe'", "timezone: 'Europe' is unknown"),
        ("encoding='utf-99'", "encoding: 'utf-99' is no encoding of text"),
        ("encoding='hex'", "encoding: 'hex' is no encoding of text"),
        ("delimiter='||'", "delimiter: must have at most 1 character"),
        ("done_suffix='/x'", "done_suffix: it must be what is added to a file's name"),
        ("done_suffix='.done\\0'", "done_suffix: it must be what is added to a file's name"),
        ("delimiter='\"'", "delimiter: it must be no quote or line end"),
        ("columns=[]", "columns: write at least one name"),
        ("columns=['a', 'a']", "columns: write at least one name, and each only once"),
        ("columns={'a': 'x'}, frame=True", "columns: paths look into what a row's job returns, not into frames"),
        ("done_suffix=''", "done_suffix: must have at least 1 character"),
        ("concurrency=0", "concurrency: must be greater than or equal to 1; got 0"),
        ("concurrency=1.5", "concurrency: must be a whole number; got a number"),
    ],
)
def test_a_setting_that_cannot_work_is_told_with_file_job_and_key(folder, settings, problem):
    write(folder, a=a_job("first", settings))
    (found,) = problems(folder)
    assert found.startswith(f"a.py: first: {problem}")


def test_a_job_of_frames_has_no_row_model(folder):
    text = (
        "from pydantic import BaseModel\nclass Client(BaseModel): ...\n@job(frame=True)\ndef f(row: Client, ctx): ...\n"
    )
    write(folder, a=text)
    assert problems(folder) == [
        "a.py: f: frame: the job takes frames, but its row is a Client; annotate it with DataFrame"
    ]


def test_good_settings_of_all_kinds_are_taken(folder):
    settings = "files='a*', queue='q', reply_queue='r', schedule='0 2 * * *', timezone='Europe/Prague', misfire='all', "
    settings += "overlap='queue', columns=['a'], encoding='cp1250', delimiter='\\t', done_suffix='.done', concurrency=1"
    write(folder, a=a_job("first", settings))
    assert load(folder, {})["first"].columns == ("a",)


def test_two_jobs_of_one_name_are_told(folder):
    write(folder, a=a_job("first"), b=a_job("first"))
    (found,) = problems(folder)
    assert found.startswith("b.py: first: a.py:2 has a job of this name too")


def test_a_second_job_of_one_name_in_one_file_is_not_lost_in_silence(folder):
    write(folder, a=a_job("first") + a_job("first"))
    assert len(problems(folder)) == 1


def test_two_jobs_of_one_pattern_are_told_before_a_file_that_both_would_take_fails(folder):
    write(folder, a=a_job("first", "files=['x*', 'a*']"), b=a_job("second", "files='a*'"))
    (told,) = problems(folder)
    assert told.startswith("b.py: second: files: first takes 'a*' already, and only one job may take a name")


def test_two_jobs_on_one_queue_are_told(folder):
    write(folder, a=a_job("first", "queue='q'"), b=a_job("second", "queue='q'"))
    assert problems(folder) == ["b.py: second: queue: first takes its messages already; write another queue"]


@pytest.mark.parametrize(
    ("key", "name", "what"),
    [
        ("reply_queue", "q.dead", "dead letters of first"),
        ("reply_queue", "q.retry.1", "messages of first wait"),
        ("queue", "q.dead", "dead letters of first"),
        ("queue", "q.retry.30", "messages of first wait"),
    ],
)
def test_the_queues_that_the_worker_makes_for_a_jobs_own_queue_are_for_nothing_else(folder, key, name, what):
    others = f"queue='r', reply_queue='{name}'" if key == "reply_queue" else f"queue='{name}'"
    write(folder, a=a_job("first", "queue='q'"), b=a_job("second", others))
    (found,) = problems(folder)
    assert found.startswith(f"b.py: second: {key}: ")
    assert what in found
    assert found.endswith("; write another queue")


def test_a_job_does_not_reply_into_its_own_retry_queue(folder):
    write(folder, a=a_job("first", "queue='q', reply_queue='q.retry.1'"))
    assert len(problems(folder)) == 1


@pytest.mark.parametrize("name", ["other.dead", "q.retry.soon", "q.deadline"])
def test_a_queue_that_is_only_named_like_one_of_the_workers_own_is_taken(folder, name):
    write(folder, a=a_job("first", f"queue='q', reply_queue='{name}'"))
    assert load(folder, {})["first"].reply_queue == name


def test_a_job_that_is_not_enabled_keeps_no_queue_for_itself(folder):
    write(folder, a=a_job("first", "queue='q'"), b=a_job("second", "queue='q.dead'"))
    assert load(folder, {"first": JobSettings(enabled=False)})["second"].queue == "q.dead"


def test_each_setting_of_a_wrong_kind_is_told_beside_those_of_other_jobs(folder):
    write(folder, a=a_job("first", "queue=['q'], max_attempts='3'"), b=a_job("second", "files='/'"))
    assert problems(folder) == [
        'a.py: first: queue: must be text; got a list; write e.g. queue = "clients.summary"',
        "a.py: first: max_attempts: must be a whole number; got text; write e.g. max_attempts = 10",
        "b.py: second: files: '/' is no pattern for the name of a file; write e.g. \"clients*.csv\"",
    ]


def test_settings_go_before_what_the_job_says(folder):
    write(folder, a=a_job("first", "files='a*', delimiter=';'"))
    first = load(folder, {"first": JobSettings(files="b*", spreadsheet_safe=True)})["first"]
    assert (first.files, first.delimiter, first.spreadsheet_safe) == (("b*",), ";", True)


def test_a_setting_that_cannot_work_is_told_where_it_stands(folder):
    write(folder, a=a_job("first", "encoding='utf-8'"))
    (found,) = problems(folder, {"first": JobSettings(encoding="utf-99")})
    assert found.startswith("[jobs.first]: encoding: 'utf-99'")


def test_settings_for_an_unknown_job_name_the_nearest(folder):
    write(folder, a=a_job("client_summary"))
    assert problems(folder, {"client_sumary": JobSettings()}) == [
        "[jobs.client_sumary]: there is no such job; did you mean 'client_summary'?"
    ]


def test_a_folder_without_jobs_is_told(folder):
    assert "there is no job here; write a file" in problems(folder)[0]
    assert "there is no such folder" in problems(folder / "missing")[0]


def made(name: str, **settings: Any) -> Job[..., Any]:
    def function(row: Row, ctx: Any) -> None: ...

    function.__name__ = name
    return job(**settings)(function)


def test_a_file_goes_to_the_job_whose_pattern_fits_its_name():
    jobs = Jobs([made("one", files=["a*.csv", "x.csv"]), made("two", files="b*.csv")])
    assert [jobs.match(name).name for name in ("a 1.csv", "x.csv", "b.csv")] == ["one", "one", "two"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_spelled_in_both_ways(forms):
    """A Mac takes them apart."""
    pattern, name = map(unicodedata.normalize, forms, ["účty*.csv", "účty leden.csv.gz"])
    assert Jobs([made("accounts", files=pattern)]).match(name).name == "accounts"


def test_a_packed_file_goes_to_the_job_for_its_name_without_gz():
    jobs = Jobs([made("one", files="a*.csv"), made("two", files="b*.csv.gz"), made("three", files="*.tar.gz")])
    assert [jobs.match(name).name for name in ("a.csv.gz", "b.csv.gz", "x.tar.gz")] == ["one", "two", "three"]


def test_patterns_tell_upper_case_from_lower_case():
    jobs = Jobs([made("one", files="a*.csv")])
    for name in ("A.csv", "a.CSV", "a.csv.GZ"):
        with pytest.raises(DeliveryError, match=r"and upper and lower case differ$"):
            jobs.match(name)
    with pytest.raises(DeliveryError, match=r"take: a\*.csv \(one\)$"):
        jobs.match("b.csv")


def test_a_file_that_no_job_takes_is_told_all_patterns():
    with pytest.raises(DeliveryError, match=r"the jobs take: a\*.csv \(one\), b.csv \(one\)"):
        Jobs([made("one", files=["a*.csv", "b.csv"]), made("two")]).match("c.csv")


def test_a_file_that_several_jobs_take_is_told_their_names():
    with pytest.raises(DeliveryError, match="several jobs take a file of this name: one, two"):
        Jobs([made("one", files="a*"), made("two", files="*a")]).match("a")


def test_a_file_whose_job_is_gone_is_for_the_one_that_takes_its_name_but_what_was_for_that_job_alone_for_none():
    jobs = Jobs([made("all", files="*")])
    assert jobs.find("gone", "a.csv", "inbox").name == jobs.find("", "a.csv", "process").name == "all"
    for source, trigger in (("gone-20261123T020000Z", "schedule"), ("a.csv", "process")):
        with pytest.raises(DeliveryError, match="no job gone is left, which this is for; restore it"):
            jobs.find("gone", source, trigger)


def test_a_job_that_is_not_enabled_is_listed_but_gets_nothing(folder):
    write(folder, a=a_job("first", "files='a*', queue='q'"), b=a_job("second", "files='a*', queue='q'"))
    jobs = load(folder, {"first": JobSettings(enabled=False)})
    assert list(jobs) == ["first", "second"]
    assert jobs.match("a.csv").name == "second"
    assert jobs.by_queue("q").name == "second"


def test_a_queue_that_no_job_takes_is_told():
    with pytest.raises(DeliveryError, match="'q'"):
        Jobs([made("one", queue="other")]).by_queue("q")
