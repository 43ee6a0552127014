"""What the attributes of a trial say."""

import pytest

from tuner.search.trial_reader import pace_of


@pytest.mark.parametrize(
    ("attributes", "pace"),
    [
        ({"epochs": 2.0, "seconds": 10.0}, 5.0),
        ({"epochs": 1, "seconds": 10.0}, 10.0),
        ({"epochs": 0.013, "seconds": 6.0}, None),
        ({"epochs": 0, "seconds": 6.0}, None),
        ({"seconds": 6.0}, None),
        ({"epochs": 2.0}, None),
    ],
)
def test_a_pace_needs_one_epoch_at_least(attributes, pace):
    """What diverges in its fifth batch has spent its seconds on setting up: 460 of them "per epoch"."""
    assert pace_of(attributes) == pace
