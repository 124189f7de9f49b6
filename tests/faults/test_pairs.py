"""Two faults: one, and a second while the service makes the first good. They are too many; a sample is drawn."""

import os
from collections.abc import Callable

import pytest

from tests.faults import test_detect_anomalies, test_export_training_set, test_poll_readings, test_watch_sensors
from tests.faults.cases import MakeWorld, check_pairs

PAIRS = int(os.environ.get("FAULT_PAIRS", "20"))


@pytest.mark.parametrize(
    ("function", "make"),
    [
        ("detect_anomalies (opening)", test_detect_anomalies.opening),
        ("watch_sensors", test_watch_sensors.make),
        ("poll_readings", test_poll_readings.make),
        ("export_training_set", test_export_training_set.make),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_two_faults_leave_the_same_as_none(
    function: str, make: MakeWorld, record_property: Callable[[str, object], None]
) -> None:
    check_pairs(function, make, PAIRS, record_property)
