"""The FHIR server's resources: every version of each, in memory, with transactions."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worker.sandbox.issues import Issue

Resource = dict[str, Any]

TYPES = (
    "Appointment",
    "Condition",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Location",
    "MedicationRequest",
    "Observation",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "ServiceRequest",
    "Task",
)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource; ``resource`` is None where this version is its deletion."""

    type: str
    id: str
    number: int
    updated: datetime
    resource: Resource | None

    @property
    def etag(self) -> str:
        """The version as a weak ETag (https://hl7.org/fhir/R4/http.html#versioning)."""
        return f'W/"{self.number}"'

    @property
    def location(self) -> str:
        """Where this very version stands, relative to the base URL."""
        return f"{self.type}/{self.id}/_history/{self.number}"


def instant(moment: datetime) -> str:
    """A FHIR instant with milliseconds, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Resources:
    """All that the server holds, of certain types. Thread-safe: hold ``lock`` to look and then write."""

    def __init__(
        self, resources: Iterable[Resource], now: Callable[[], datetime], *, types: Container[str] = TYPES
    ) -> None:
        self.lock = threading.RLock()
        self._now = now
        self._types = types
        self._versions: defaultdict[str, dict[str, list[Version]]] = defaultdict(dict)
        self._log: list[Version] = []
        for resource in resources:
            self.write(resource["resourceType"], resource["id"], resource)

    def check_type(self, type_: str) -> None:
        """Raise 404 for a type that is not held here."""
        if type_ not in self._types:
            raise Issue(404, f"The server has no resources of the type {type_}.", "not-supported")

    def history(self, type_: str, id_: str) -> list[Version]:
        """All versions of one resource, the oldest first; empty if there never was one."""
        self.check_type(type_)
        with self.lock:
            return list(self._versions[type_].get(id_, ()))

    def current(self, type_: str, id_: str) -> Version:
        """The newest version; raises 404 if there is none and 410 if it was deleted."""
        return self._alive(self.history(type_, id_))

    def version(self, type_: str, id_: str, number: str) -> Version:
        """One version of a resource; raises like ``current``."""
        return self._alive([version for version in self.history(type_, id_) if str(version.number) == number])

    def alive(self, type_: str, ids: Iterable[str] | None = None) -> Iterator[Version]:
        """The newest version of each resource of a type that is not deleted, or of those with certain ids."""
        with self.lock:
            of_type = self._versions[type_]
            newest = [of_type[id_][-1] for id_ in (of_type if ids is None else ids) if id_ in of_type]
        return (version for version in newest if version.resource is not None)

    def changed(self, since: datetime | None) -> list[Version]:
        """The newest version of each resource, which may be its deletion, of those written after a time."""
        with self.lock:
            newest = [versions[-1] for of_type in self._versions.values() for versions in of_type.values()]
        return [version for version in newest if since is None or version.updated > since]

    def write(self, type_: str, id_: str, resource: Resource | None) -> Version:
        """Add a version, None for a deletion; the resource gets its id and meta."""
        with self.lock:
            versions = self._versions[type_].setdefault(id_, [])
            version = Version(type_, id_, len(versions) + 1, self._now(), resource)
            if resource is not None:
                version = self._stamped(version, resource)
            versions.append(version)
            self._log.append(version)
            return version

    @contextmanager
    def transaction(self) -> Iterator[Callable[[], list[Version]]]:
        """All that is written inside stays, or, if it raises, nothing; gives a view of what was written up to now."""
        with self.lock:
            start = len(self._log)
            try:
                yield lambda: self._log[start:]
            except BaseException:
                self._undo(start)
                raise

    def _undo(self, start: int) -> None:
        for version in reversed(self._log[start:]):
            versions = self._versions[version.type][version.id]
            versions.pop()
            if not versions:
                del self._versions[version.type][version.id]
        del self._log[start:]

    def _stamped(self, version: Version, resource: Resource) -> Version:
        given = {name: value for name, value in resource.items() if name not in ("resourceType", "id", "meta")}
        meta = {**resource.get("meta", {}), "versionId": str(version.number), "lastUpdated": instant(version.updated)}
        stamped = {"resourceType": version.type, "id": version.id, "meta": meta, **given}
        return Version(version.type, version.id, version.number, version.updated, stamped)

    def _alive(self, versions: list[Version]) -> Version:
        if not versions:
            raise Issue(404, "There is no such resource.")
        if versions[-1].resource is None:
            raise Issue(410, "The resource was deleted.")
        return versions[-1]
