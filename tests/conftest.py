"""Real servers; each is started when the first test asks for it."""

import hypothesis
import pytest
from servers.postgresql import postgresql

# Machines are shared: a slow example is not a wrong one.
hypothesis.settings.register_profile("longshore", deadline=None)
hypothesis.settings.load_profile("longshore")


@pytest.fixture(scope="session")
def postgresql_server():
    with postgresql() as server:
        yield server
