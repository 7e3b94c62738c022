"""Real servers; each is started when the first test asks for it."""

import hypothesis
import pytest
from servers.postgresql import postgresql
from servers.rabbitmq import rabbitmq

# Machines are shared: a slow example is not a wrong one.
hypothesis.settings.register_profile("longshore", deadline=None)
hypothesis.settings.load_profile("longshore")


@pytest.fixture(scope="session")
def postgresql_server():
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server():
    with rabbitmq() as broker:
        yield broker


@pytest.fixture
def own_rabbitmq():
    """A broker that the test may kill."""
    with rabbitmq() as broker:
        yield broker


@pytest.fixture
def broker_url(rabbitmq_server):
    """An empty virtual host."""
    return rabbitmq_server.new_vhost()
