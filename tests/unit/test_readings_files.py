"""Files of readings and labels: what is read, what is mended and said, what is refused and how."""

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from overcut.sensors.readings import Reading
from workbench.readings_files import (
    Label,
    ReadingsFileError,
    labels_path,
    read_labels,
    read_readings,
    write_labels,
    write_readings,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def minute(number: int) -> datetime:
    return datetime(2021, 6, 10, 12, number, tzinfo=UTC)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_readings_come_in_order_of_time_then_sensor(tmp_path: Path) -> None:
    path = write(
        tmp_path / "fleet.csv",
        "sensor_id,measured_at,temperature",
        "b,2021-06-10T12:00:00Z,-18.4",
        "b,2021-06-10T12:01:00Z,-18",
        "a,2021-06-10T12:00:00Z,4.1",
        "a,2021-06-10T14:01:00+02:00,4.2",
    )
    content = read_readings(path)
    assert content.readings == [
        Reading("a", minute(0), {"temperature": 4.1}),
        Reading("b", minute(0), {"temperature": -18.4}),
        Reading("a", minute(1), {"temperature": 4.2}),
        Reading("b", minute(1), {"temperature": -18.0}),
    ]
    assert content.measures == ("temperature",)
    assert content.repairs == ()  # one sensor after the other is no disorder


def test_an_empty_cell_is_a_measure_that_the_reading_lacks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wide.csv",
        "sensor_id,measured_at,temperature,pressure",
        "a,2021-06-10T12:00:00Z,4.1,",
        "a,2021-06-10T12:01:00Z,,9.5",
        "a,2021-06-10T12:02:00Z,4.2,9.6",
    )
    content = read_readings(path)
    assert [dict(reading.values) for reading in content.readings] == [
        {"temperature": 4.1},
        {"pressure": 9.5},
        {"temperature": 4.2, "pressure": 9.6},
    ]
    assert content.measures == ("temperature", "pressure")
    assert content.repairs == ()


def test_only_the_measures_asked_for_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wide.csv",
        "sensor_id,measured_at,temperature,site,pressure",
        "a,2021-06-10T12:00:00Z,4.1,Lyon,9.4",
        "a,2021-06-10T12:01:00Z,4.2,Lyon,",
    )
    content = read_readings(path, measures=["pressure"])
    assert content.readings == [Reading("a", minute(0), {"pressure": 9.4})]
    assert content.measures == ("pressure",)
    assert content.repairs == ("1 row without a value was left out",)


def test_repairs_are_made_and_stated(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rough.csv",
        "sensor_id,measured_at,temperature",
        "a,2021-06-10T12:03:00Z,3",
        "a,2021-06-10T12:01:00Z,1",
        "a,2021-06-10T12:02:00Z,2",
        "a,2021-06-10T12:03:00Z,30",
        "",
        "a,2021-06-10T12:04:00Z,",
        "a,2021-06-10T12:05:00Z,",
    )
    content = read_readings(path)
    assert content.readings == [
        Reading("a", minute(1), {"temperature": 1.0}),
        Reading("a", minute(2), {"temperature": 2.0}),
        Reading("a", minute(3), {"temperature": 30.0}),
    ]
    assert content.repairs == (
        "1 duplicate row: the last of each was kept",
        "2 rows were out of order: sorted",
        "2 rows without a value were left out",
    )


HEADER = "sensor_id,measured_at,temperature"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; a readings file begins with the header sensor_id,measured_at and one column a measure"),
        (HEADER.encode() + b"\n", "has a header and no rows"),
        (HEADER.encode() + b"\na,2021-06-10T12:00:00Z,\n", "has no value of temperature in any row"),
        (b"sensor_id,time,temperature\n", "lacks the column measured_at (it has sensor_id, time, temperature)"),
        (b"time,temperature\n", "lacks the columns sensor_id and measured_at (it has time, temperature)"),
        (b"sensor_id,measured_at\n", "has no measure"),
        (b"sensor_id,measured_at,t,t\n", "has the column 't' more than once"),
        (b"sensor_id,measured_at,t,\n", "has a column without a name"),
        (b"sensor_id;measured_at;temperature\n", "lacks the columns sensor_id and measured_at"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "is not a text in UTF-8"),
        (gzip.compress(HEADER.encode(), mtime=0), "if it is compressed, end its name in .gz"),
        (HEADER.encode() + b'\n"a,2021-06-10T12:00:00Z,4.1\n', "is not a CSV file"),
        (HEADER.encode() + b"\na,2021-06-10T12:00:00Z,warm\n", "line 2: temperature is not a number: 'warm'"),
        (HEADER.encode() + b"\na,2021-06-10T12:00:00Z,nan\n", "line 2: temperature is not a number: 'nan'"),
        (HEADER.encode() + b"\na,2021-06-10T12:00:00Z,1_0\n", "line 2: temperature is not a number: '1_0'"),
        (HEADER.encode() + b"\n\na,2021-06-10T12:00:00,4\n", "line 3: measured_at has no time zone"),
        (HEADER.encode() + b"\na,yesterday,4\n", "line 2: measured_at is not a time in ISO 8601: 'yesterday'"),
        (HEADER.encode() + b"\n,2021-06-10T12:00:00Z,4\n", "line 2: sensor_id is not a text of 1 to 128 characters"),
        (HEADER.encode() + b"\na,2021-06-10T12:00:00Z\n", "line 2: 2 cells where the header has 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ReadingsFileError, match=re.escape(says)) as refused:
        read_readings(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadingsFileError, match=r"none\.csv does not exist"):
        read_readings(tmp_path / "none.csv")
    with pytest.raises(ReadingsFileError, match="cannot be read: Is a directory"):
        read_readings(tmp_path)
    plain = write(tmp_path / "plain.csv.gz", HEADER, "a,2021-06-10T12:00:00Z,4.1")
    with pytest.raises(ReadingsFileError, match="is not a gzip file"):
        read_readings(plain)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(f"{HEADER}\na,2021-06-10T12:00:00Z,4.1\n".encode())[:-10])
    with pytest.raises(ReadingsFileError, match="ends in the middle of its compressed data"):
        read_readings(cut)


def test_an_unknown_measure_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.csv", "sensor_id,measured_at,temperature,pressure", "a,2021-06-10T12:00:00Z,1,2")
    with pytest.raises(ReadingsFileError, match="has no measure 'humidity'; it has temperature, pressure"):
        read_readings(path, measures=["temperature", "humidity"])


def test_a_byte_order_mark_and_spaces_after_commas_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfsensor_id, measured_at, temperature\r\na, 2021-06-10T12:00:00Z, 4.1\r\n")
    assert read_readings(path).readings == [Reading("a", minute(0), {"temperature": 4.1})]


def test_a_written_file_is_this_text_and_these_bytes_every_time(tmp_path: Path) -> None:
    readings = [
        Reading("b", minute(1), {"temperature": -18.0}),
        Reading("b", minute(0), {"pressure": 9.5, "temperature": -18.4}),
        Reading("a", minute(1), {"temperature": 4.1}),
    ]
    first, second = tmp_path / "one.csv.gz", tmp_path / "two.csv.gz"
    write_readings(first, readings)
    write_readings(second, reversed(readings))
    assert gzip.decompress(first.read_bytes()).decode() == (
        "sensor_id,measured_at,pressure,temperature\n"
        "b,2021-06-10T12:00:00Z,9.5,-18.4\n"
        "a,2021-06-10T12:01:00Z,,4.1\n"
        "b,2021-06-10T12:01:00Z,,-18.0\n"
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == b"\0\0\0\0"  # the time in a gzip head
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv.gz", "two.csv.gz"]
    assert read_readings(first).readings == [readings[1], readings[2], readings[0]]

    write_readings(tmp_path / "some.csv", readings[:1], measures=["temperature"])
    assert (tmp_path / "some.csv").read_text() == f"{HEADER}\nb,2021-06-10T12:01:00Z,-18.0\n"
    with pytest.raises(ReadingsFileError, match="cannot be written: No such file or directory"):
        write_readings(tmp_path / "nowhere" / "x.csv", readings)


def test_labels_are_written_and_read_back(tmp_path: Path) -> None:
    labels = [Label("b", minute(3), minute(5), "leak"), Label("a", minute(7), minute(7), "stuck")]
    path = tmp_path / "fleet.labels.csv.gz"
    write_labels(path, labels)
    assert gzip.decompress(path.read_bytes()).decode() == (
        "sensor_id,started_at,ended_at,kind\n"
        "a,2021-06-10T12:07:00Z,2021-06-10T12:07:00Z,stuck\n"
        "b,2021-06-10T12:03:00Z,2021-06-10T12:05:00Z,leak\n"
    )
    assert read_labels(path) == [labels[1], labels[0]]
    write_labels(path, [])
    assert read_labels(path) == []


def test_labels_that_cannot_be_are_refused(tmp_path: Path) -> None:
    header = "sensor_id,started_at,ended_at,kind"
    backwards = write(tmp_path / "x.csv", header, "a,2021-06-10T12:07:00Z,2021-06-10T12:06:00Z,leak")
    with pytest.raises(ReadingsFileError, match=r"x\.csv, line 2: the fault ends before it starts"):
        read_labels(backwards)
    local = write(tmp_path / "y.csv", header, "a,2021-06-10T12:07:00Z,2021-06-10T12:09:00,leak")
    with pytest.raises(ReadingsFileError, match="line 2: ended_at has no time zone"):
        read_labels(local)
    with pytest.raises(ReadingsFileError, match="lacks the columns started_at and ended_at and kind"):
        read_labels(write(tmp_path / "z.csv", HEADER))


@pytest.mark.parametrize(
    ("readings", "labels"),
    [
        ("fleet.csv.gz", "fleet.labels.csv.gz"),
        ("fleet.csv", "fleet.labels.csv"),
        ("fleet.txt", "fleet.txt.labels.csv"),
    ],
)
def test_labels_lie_beside_their_readings(readings: str, labels: str) -> None:
    assert labels_path(Path("a.b") / readings) == Path("a.b") / labels


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("name", "count", "sensors", "measures", "labels"),
    [
        (
            "hvac_evaporator_2021",
            1160,
            1,
            ("evaporator_temperature", "sensor_temperature", "set_point_temperature"),
            1,
        ),
        ("lbnl_MZVAV-2-1", 86400, 4, ("temperature",), 8),
        ("nab_nyc_taxi", 10320, 1, ("passengers",), 5),
    ],
)
def test_recorded_data_are_read_whole(
    name: str, count: int, sensors: int, measures: tuple[str, ...], labels: int
) -> None:
    content = read_readings(DATA / f"{name}.csv.gz")
    assert (len(content.readings), content.measures, content.repairs) == (count, measures, ())
    assert len({reading.sensor_id for reading in content.readings}) == sensors
    assert len(read_labels(labels_path(DATA / f"{name}.csv.gz"))) == labels
