"""What a server keeps comes back from a read-change-write as it was: resources of (nearly) all types of R4."""

import re
from pathlib import Path

import pytest
from fake_backend import answer, opened_fhir, query

from worker import exact_json
from worker.backends import models

DATA = Path(__file__).parents[1] / "data" / "fhir-r4.ndjson"
LINES = DATA.read_bytes().splitlines()
# A server does not keep them: it answers with them.
KEPT = [line for line in LINES if b'{"resourceType":"OperationOutcome"' not in line]


def place(line):
    parsed = exact_json.loads(line)
    return f"{parsed['resourceType']}/{parsed['id']}"


class Server:
    """Keeps resources byte by byte; ``written`` is what was put."""

    def __init__(self):
        self.kept = {place(line): line for line in KEPT}
        self.written = {}

    def __call__(self, request):
        path = request.url.partition("/api/")[2].partition("?")[0]
        if request.method == "PUT":
            self.written[path] = request.body
            return answer(request.body)
        if ids := dict(query(request)).get("_id"):
            type_ = path.removesuffix("/_search")
            entries = b",".join(b'{"resource":' + self.kept[f"{type_}/{id_}"] + b"}" for id_ in ids.split(","))
            return answer(b'{"resourceType":"Bundle","entry":[' + entries + b"]}")
        return answer(self.kept[path])


def same_numbers(line):
    """The line with its exponents as Python writes them: 1E-22 has the same digits as 1e-22."""
    return re.sub(rb"(:-?[\d.]+)e([-+]?\d)", rb"\1E\2", line)


@pytest.mark.parametrize("many", [False, True], ids=["alone", "together"])
def test_every_resource_is_written_back_byte_by_byte_as_it_was_read(many):
    server = Server()
    ehr = opened_fhir(server).at()
    types = {line.partition("/")[0] for line in server.kept}
    for type_ in sorted(types):
        ids = [each.partition("/")[2] for each in server.kept if each.startswith(f"{type_}/")]
        found = ehr.read_many(type_, ids).values() if many else [ehr.read(type_, id_) for id_ in ids]
        for resource in found:
            ehr.update(resource)
    assert server.written == {place(line): same_numbers(line) for line in KEPT}


def test_every_resource_is_valid():
    wrong = {place(line): models.problems("R4", exact_json.loads(line)) for line in LINES}
    assert {where: what for where, what in wrong.items() if what} == {}


def test_a_type_that_only_r4_has_is_left_to_the_server_and_an_unknown_one_is_not():
    assert models.problems("R4", {"resourceType": "MedicinalProduct"}) == []
    assert models.problems("R4B", {"resourceType": "MedicinalProduct"})
    assert models.problems("R4", {"resourceType": "MedicalProduct"})
