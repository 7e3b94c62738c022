"""Real servers; each is started when the first test asks for it."""

import pytest
from servers.postgresql import postgresql


@pytest.fixture(scope="session")
def postgresql_server():
    with postgresql() as server:
        yield server
