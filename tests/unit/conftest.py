import pytest
from structlog.testing import capture_logs


@pytest.fixture
def capture_log():
    """The events that are logged during the test, as dictionaries."""
    with capture_logs() as events:
        yield events
