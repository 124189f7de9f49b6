"""The data bucket's layout: written down here, because nothing that is stored would be found if it changed."""

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overcut.sensors.layout import bucket_of, day_prefix, days_of_window, hour_of, readings_key


@pytest.mark.parametrize(
    # the first eight bytes of `printf hvac-323 | sha256sum`, modulo
    ("sensor_id", "buckets", "bucket"),
    [("hvac-323", 16, 2), ("hvac-323", 4, 2), ("hvac-323", 256, 178), ("Kühlraum 1", 16, 12), ("", 16, 4)],
)
def test_buckets_are_the_same_for_ever(sensor_id: str, buckets: int, bucket: int) -> None:
    assert bucket_of(sensor_id, buckets) == bucket


@given(st.text(), st.integers(1, 256))
def test_every_sensor_has_a_bucket(sensor_id: str, buckets: int) -> None:
    assert 0 <= bucket_of(sensor_id, buckets) < buckets


def test_buckets_fill_evenly() -> None:
    filled = Counter(bucket_of(f"sensor-{k}", 16) for k in range(5000))
    assert len(filled) == 16
    assert max(filled.values()) < 400


def test_hour() -> None:
    assert hour_of(datetime(2026, 3, 2, 12, 59, 59, 999, UTC)) == datetime(2026, 3, 2, 12, tzinfo=UTC)
    # a zone a quarter of an hour off: the hour is UTC's
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    assert hour_of(datetime(2026, 3, 3, 0, 30, tzinfo=kathmandu)) == datetime(2026, 3, 2, 18, tzinfo=UTC)


def test_keys() -> None:
    assert readings_key(datetime(2026, 3, 2, 4, tzinfo=UTC), 7) == "readings/dt=2026-03-02/04-0007.parquet"
    assert day_prefix(date(2026, 3, 2)) == "readings/dt=2026-03-02/"
    assert day_prefix(date(1, 1, 1)) == "readings/dt=0001-01-01/"


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 255))
def test_a_key_lies_under_its_day(moment: datetime, bucket: int) -> None:
    key = readings_key(hour_of(moment), bucket)
    assert key.startswith(day_prefix(moment.date()))
    assert re.fullmatch(r"readings/dt=\d{4}-\d\d-\d\d/\d\d-\d{4}\.parquet", key)


def test_days_of_a_window() -> None:
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert days_of_window(noon, timedelta(hours=12)) == [date(2026, 3, 2)]
    assert days_of_window(noon, timedelta(hours=13)) == [date(2026, 3, 1), date(2026, 3, 2)]
    assert len(days_of_window(noon, timedelta(days=14))) == 15
    evening_in_new_york = datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=-5)))
    assert days_of_window(evening_in_new_york, timedelta(hours=1)) == [date(2026, 3, 2)]
