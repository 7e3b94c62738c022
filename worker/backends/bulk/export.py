"""An export from its beginning to its resources: begun, waited for, fetched, and given back to the server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from worker.backends.answers import asked_wait, codes, names, outcome_issues, resource, whole
from worker.backends.bulk import lines
from worker.backends.bulk.manifest import File, Manifest
from worker.backends.bulk.progress import Progress
from worker.backends.bulk.question import Question
from worker.backends.calls import Call, Caller
from worker.backends.lookups import GONE, own_copy
from worker.backends.page import Resource
from worker.errors import BackendError, DeliveryError, Interrupted, Paused, Refused, ServerFault, Unauthorized, sentence
from worker.http_terms import origin_of
from worker.log import get_logger
from worker.records import EXPORTS

log = get_logger()

LONGEST_EXPORT = 24 * 3600.0
"""Seconds that a server may take; then the export is given up."""

MOST_FAILURES = 10
"""How often a server may fail to make an export, each time begun anew."""

MOST_MANIFESTS = 1000
"""How many pages a manifest may have."""

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0  # where the server says nothing of it
_ACCEPTED = 202
_NO_SUCH_THING = frozenset({400, 404, 405, 501})
_SIGNED_AND_EXPIRED = frozenset({400, 401, 403})  # what buckets say to an address that was good for an hour
_NDJSON = {"Accept": "application/fhir+ndjson"}
_REFERENCE = re.compile(r"(?:https?://[^?#]+/)?([A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64})")
_FATAL = ("error", "fatal")


class Turn:
    """What all exports of a delivery share: one is made after the other, and one that was refused, not again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.refused: dict[str, Refused] = {}


class Export:
    """The resources of an export, as ``Fhir.export`` describes it: asked for only when read.

    What is fetched lies in the folder of the delivery, and so does the address of an export that the server is still
    busy with: after a stop or a crash, the delivery goes on where it was. Not before all files are there, and what they
    should be, is the first resource given.
    """

    def __init__(
        self,
        caller: Caller,
        question: Question,
        folder: Path | None,
        turn: Turn,
        *,
        longest: int,
        partial_ok: bool,
    ) -> None:
        self._backend = caller.backend
        self._question = question
        self._folder = folder
        self._turn = turn
        self._making = partial(_Making, caller, question, longest=longest)
        self._partial_ok = partial_ok
        self._done: Progress | None = None

    @property
    def time(self) -> str:
        """When the server looked, by its own clock (``transactionTime``): where the next ``since`` goes on from."""
        manifest = self._fetched().manifest
        return manifest.time if manifest else ""

    def iterate(self) -> Iterator[Resource]:
        """Every resource, file by file."""
        return self._of("output")

    __iter__ = iterate

    def deleted(self) -> Iterator[str]:
        """What of the types was deleted since ``since``, as far as the server tells: references (``Patient/123``).

        Raises ``Refused`` where it tells of something that is none.
        """
        types = self._question.types
        for bundle in self._of("deleted"):
            for entry in bundle.get("entry") or ():
                reference = self._gone(entry)
                if not types or reference.partition("/")[0] in types:
                    yield reference

    def _gone(self, entry: Any) -> str:
        request = entry.get("request") if isinstance(entry, dict) else None
        found = None
        if isinstance(request, dict) and request.get("method") == "DELETE":
            found = _REFERENCE.fullmatch(str(request.get("url")))
        if not found:
            raise Refused(self._backend, "tells of something deleted, and not plainly of what")
        return found[1]

    def outcomes(self) -> Iterator[Resource]:
        """What the server had to say, as OperationOutcomes."""
        return self._of("error")

    def _of(self, kind: str) -> Iterator[Any]:
        done = self._fetched()
        for number, _ in done.of_kind(kind):
            with _kept_on_disk():
                yield from lines.read(self._backend, done.path(number))

    def _fetched(self) -> Progress:
        if self._done is None:
            if self._folder is None:
                raise DeliveryError("an export takes longer than a message may: ask for it in a job with a schedule")
            with self._turn.lock, _kept_on_disk():  # servers make few at a time
                progress = Progress(self._folder / EXPORTS / f"{self._backend}-{self._question.key}")
                progress.begin()
                self._make(progress)
                self._refuse_a_part(progress)
                self._done = progress
        return self._done

    def _make(self, progress: Progress) -> None:
        refused = self._turn.refused
        if error := refused.get(self._question.key):
            raise own_copy(error)
        try:
            self._making(progress).make()
        except Refused as error:
            refused[self._question.key] = error
            raise

    def _refuse_a_part(self, progress: Progress) -> None:
        said, failed = _told(self._backend, progress)
        if failed and not self._partial_ok:
            what = f"could not export everything: {failed} ({' '.join(said)}); take the others with partial_ok=True"
            raise Refused(self._backend, what)
        if said:
            log.warning("an export came with issues", backend=self._backend, codes=" ".join(said), errors=failed)


@contextmanager
def _kept_on_disk() -> Iterator[None]:
    """What goes wrong there is no fault of the job's: the delivery waits for room on it."""
    try:
        yield
    except OSError as error:
        raise Interrupted(Paused(f"an export's files cannot be kept: {sentence(error)}")) from error


def _told(backend: str, progress: Progress) -> tuple[list[str], int]:
    """The codes of the server's issues, and how many of those are errors."""
    said: set[str] = set()
    failed = 0
    for number, _ in progress.of_kind("error"):
        for outcome in lines.read(backend, progress.path(number)):
            issues = outcome_issues(outcome)
            failed += sum(issue.get("severity") in _FATAL for issue in issues)
            if len(said) < 20:
                said |= codes(issues)
    return names(said), failed


class _Expired(Refused):
    """A file's address is not good any more, though the export may still be there."""


class _Making:
    """Goes on with an export to the end, from wherever it is."""

    def __init__(self, caller: Caller, question: Question, progress: Progress, *, longest: int) -> None:
        self._caller = caller
        self._question = question
        self._progress = progress
        self._longest = longest

    def make(self, *, again: bool = True) -> None:
        """Returns when all files are there; ``again``: one that the server has dropped is begun anew, once."""
        if self._progress.is_over and self._progress.is_whole:
            return
        self._caller.wait(0)  # whoever waited for a turn may be the next to stop, or have lost the delivery
        self._progress.tidy()
        if self._progress.is_over:  # and somebody has tidied up
            self._progress.forget()
        try:
            self._go_on()
        except Refused as error:
            if self._progress.is_whole:
                return  # another worker, which has taken the delivery over, was done with it first
            was_begun = bool(self._progress.status)
            self._give_up()
            is_gone = was_begun and (error.status in GONE or isinstance(error, _Expired))
            if is_gone and not again:
                raise error.within("has dropped an export, and the one begun anew: ") from error
            if not is_gone:
                raise
            log.warning("an export has expired and is begun anew", backend=self._caller.backend)
            self.make(again=False)
        else:
            self._dismiss()
            self._progress.end()

    def _go_on(self) -> None:
        if not self._progress.status:
            self._progress.status = self._begun()
        manifest = self._progress.manifest
        if manifest is None:
            self._progress.manifest = manifest = self._awaited(self._progress.status)
        for number, file in enumerate(manifest.files):
            if not self._progress.path(number).exists():
                self._fetch(number, file)

    def _begun(self) -> str:
        try:
            status = self._caller(self._question.call(), _status_url)
        except Refused as error:
            if error.status not in _NO_SUCH_THING:
                raise
            raise error.within("begins no export: ", "; see whether it offers $export at this level") from error
        log.info("export begun", backend=self._caller.backend)
        return status

    def _awaited(self, status: str) -> Manifest:
        """The whole manifest, when there is one."""
        manifest = self._polled(status)
        seen = {status}
        url = manifest.next
        while url:
            if url in seen or len(seen) >= MOST_MANIFESTS:
                raise Refused(self._caller.backend, "the pages of an export's manifest do not end")
            seen.add(url)
            following = self._polled(url)
            manifest, url = manifest.joined(following), following.next
        log.info("export done", backend=self._caller.backend, files=len(manifest.files))
        return manifest

    def _polled(self, url: str) -> Manifest:
        waited, backoff = self._progress.age, _FIRST_WAIT
        call = Call("GET", url, headers={"Accept": "application/json"})
        while True:
            try:
                found = self._caller(call, self._manifest_or_wait)
            except ServerFault as fault:
                raise self._failed(fault) from fault.__cause__
            if isinstance(found, Manifest):
                return found
            if waited >= LONGEST_EXPORT:
                what = f"has not made the export within {LONGEST_EXPORT / 3600:.0f} hours"
                raise Refused(self._caller.backend, what)
            pause = max(_FIRST_WAIT, found) if found is not None else backoff
            backoff = min(_LONGEST_WAIT, 2 * backoff)
            waited += pause
            self._caller.wait(pause)

    def _failed(self, fault: ServerFault) -> BackendError:
        """As the guide has it, this is the export's end: a passing fault has a code of its own."""
        self._give_up()
        if self._progress.failed() < MOST_FAILURES:
            return fault
        return Refused(fault.backend, f"has failed to make the export {MOST_FAILURES} times: {_plain(fault)}")

    def _manifest_or_wait(self, backend: str, response: requests.Response) -> Manifest | float | None:
        if response.status_code == _ACCEPTED:
            return asked_wait(response)
        return Manifest.read(backend, resource(backend, response), response.url, self._question.types)

    def _fetch(self, number: int, file: File) -> None:
        fetched = lines.Fetched(file, self._longest, lambda: self._caller.wait(0))

        def read(backend: str, response: requests.Response) -> None:
            with closing(response), self._progress.writing(number) as write:
                fetched.save(backend, response, write)

        try:
            self._caller(Call("GET", file.url, headers=_NDJSON, stream=True, public=file.public), read)
        except ServerFault as fault:
            if fault.status is not None:
                raise  # else it has come whole, and at each try the same: waiting will not make it better
            raise Refused(self._caller.backend, _plain(fault)) from fault
        except (Refused, Unauthorized) as error:
            if not file.public or error.status not in _SIGNED_AND_EXPIRED:
                raise
            what = f"answered {error.status} to an export's file that needs no token: its address may have expired"
            raise _Expired(self._caller.backend, what, error.status) from error

    def _give_up(self) -> None:
        if self._progress.status:
            self._dismiss()
        self._progress.forget()

    def _dismiss(self) -> None:
        """Let the server remove its files (IG, "Bulk Data Delete Request"); it may be unable to, or have done it."""
        try:
            self._caller(Call("DELETE", self._progress.status, headers={"Accept": "application/fhir+json"}), whole)
        except BackendError as error:
            log.info("an export is left for the server to remove", backend=self._caller.backend, status=error.status)


def _plain(error: BackendError) -> str:
    """What it says, without the backend's name."""
    return error.detail.removeprefix(f"{error.backend}: ")


def _status_url(backend: str, response: requests.Response) -> str:
    """Where the server tells how far it is; only on its own origin, as the token goes there."""
    given = response.headers.get("Content-Location", "")
    if response.status_code != _ACCEPTED or not given:
        resource(backend, response)  # it may say why
        raise Refused(backend, f"answered {response.status_code} to an export, and not where it will be")
    try:
        url = urljoin(response.url, given)
        if origin_of(url) == origin_of(response.url):
            return url
    except ValueError:
        pass
    raise Refused(backend, "would tell of an export on another origin, which gets no token")
