"""What holds of events holds where all of them are read by the careful reader, as without the compiled part."""

from collections.abc import Iterator
from unittest import mock

import pytest

from schemas.careful import CarefulReader
from tests.schemas import test_event, test_many_events
from tests.schemas.test_event import *  # noqa: F403
from tests.schemas.test_many_events import *  # noqa: F403

# In the usual run it reads what the compiled part leaves to it, and is what that one is compared with.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _carefully() -> Iterator[None]:
    """The tests of both modules, whose functions look in their own module for what reads."""
    careful = CarefulReader(65_536)
    with mock.patch.object(test_event, "READER", careful), mock.patch.object(test_many_events, "READER", careful):
        yield
