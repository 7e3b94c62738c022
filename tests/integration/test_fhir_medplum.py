import pytest
from servers.fhir_promises import FhirServerPromises
from servers.medplum import medplum


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with medplum(tmp_path_factory.mktemp("medplum")) as base:
        yield base


class TestMedplum(FhirServerPromises):
    conflict, gone = 412, 404
