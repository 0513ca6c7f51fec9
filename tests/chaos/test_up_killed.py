"""`headrace up`, killed whole and started again on the same data, loses nothing and does nothing twice."""

from pathlib import Path

import pytest

from tests.chaos import up_killed
from tests.chaos.checker import explain


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.long
@pytest.mark.timeout(400)
def test_up_again_after_every_process_was_killed(tmp_path: Path) -> None:
    with up_killed.started(tmp_path / "data") as stack:
        result, _ = up_killed.run(stack, 20_003, 1)
    assert explain(result.problems) == ""
    assert [outcome.fault for outcome in result.outcomes] == [up_killed.FAULT]
    assert result.records > 100
