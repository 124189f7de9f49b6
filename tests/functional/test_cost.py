"""`overcut cost`: the bill is computed from counts that the running code still gives, and from a dated price table.

`WRITE_COUNTS=1 pytest tests/functional/test_cost.py -k counts` counts anew and writes `workbench/prices/counts.json`.
"""

import json
import os
import tomllib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from lambdas.sensors.detect_anomalies.detection import READ_AGAIN_AFTER
from lambdas.sensors.poll_readings.polling import MOST_LOGGED
from overcut.sensors.cutoffs import CACHE_FOR
from stacks.sensors.detection import LARGE_LOTS, MANY_LOTS, MANY_LOTS_WRITES, ONE_LOT, ONE_LOT_WRITES
from stacks.stage import Sensors
from tests.conftest import resources_of, synthesized
from tests.functional import test_detect_anomalies
from tests.functional.counting import BUCKETS, Fleet
from tests.functional.test_detect_anomalies import Plant
from tests.infrastructure.templates import functions_of
from workbench import cost
from workbench.cli import main

plant = test_detect_anomalies.plant

# two fleets tell what there is for the fleet and what for each sensor: of 70, one is in every bucket, and every second
# brings a reading
FLEETS = (70, 80)


@pytest.mark.parametrize("sensors", FLEETS)
def test_the_running_code_still_asks_for_what_was_counted(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, sensors: int
) -> None:
    fleet = Fleet(plant, sensors, monkeypatch)
    counted = fleet.count()
    if "WRITE_COUNTS" in os.environ:
        _write(str(sensors), counted, fleet)
    known = json.loads(cost.COUNTS.read_text())
    assert {name: _compared(counts) for name, counts in counted.items()} == {
        name: _compared(counts) for name, counts in known["fleets"][str(sensors)].items()
    }
    assert known["metrics"] == sorted(fleet.metrics)
    assert known["reading_bytes"] == fleet.reading_bytes
    for function, counts in counted.items():
        for name in (name for name in counts if name.endswith("_bytes")):
            # a log tells the time; what is exported is compressed
            assert counts[name] == pytest.approx(known["fleets"][str(sensors)][function][name], rel=0.1)


def _compared(counts: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in counts.items() if name != "cpu_ms" and not name.endswith("_bytes")}


def _write(sensors: str, counted: dict[str, Any], fleet: Fleet) -> None:
    kept = json.loads(cost.COUNTS.read_text()) if cost.COUNTS.exists() else {"fleets": {}}
    kept |= {"made_by": "WRITE_COUNTS=1 pytest tests/functional/test_cost.py", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    kept |= {"reading_bytes": fleet.reading_bytes, "metrics": sorted(fleet.metrics)}
    kept["fleets"][sensors] = counted
    cost.COUNTS.write_text(json.dumps(kept, indent=2) + "\n")


def test_the_bill_is_what_is_counted_times_what_it_costs() -> None:
    found = cost.bill(5_000)
    usd = {(line.service, line.what): line.usd for line in found.lines}
    # a write unit a reading, at 0.625 dollars a million; 43,800 minutes a month
    assert usd["DynamoDB", "Readings table, write units"] == pytest.approx(5_000 * 43_800 * 0.625e-6)
    # one poll holds the stream at any moment, of 128 MB
    polling = 43_800 * 61 * 0.125 * 0.0000133334
    assert usd["Lambda", "poll_readings, GB-seconds"] == pytest.approx(polling)
    assert found.total == pytest.approx(sum(line.usd for line in found.lines))


def test_provisioned_writes_are_billed_by_the_hour_and_judged_by_one_instance() -> None:
    found, provisioned = cost.bill(5_000), cost.bill(5_000, is_provisioned=True)
    usd = {(line.service, line.what): line.usd for line in provisioned.lines}
    # 5,000 / 60 writes a second, at nine tenths of what is provisioned; and the reads
    assert usd["DynamoDB", "Readings table, write units"] == pytest.approx(730 * 5_000 / 60 / 0.9 * 0.00065)
    reads = provisioned.a_month("readings_reads") / (730 * 3600) / 0.9
    assert usd["DynamoDB", "Readings table, read units"] == pytest.approx(730 * reads * 0.00013)
    # what nobody else was handed, it need not read
    assert provisioned.shares["one missed"] == 0 < found.shares["one missed"]
    # more than an instance can be handed at first are judged in lots
    of_size = {n: cost.bill(n, is_provisioned=True).lots for n in (6_000, 6_001, 36_000, 36_001)}
    assert list(of_size.values()) == [cost.ONE_LOT, cost.MANY_LOTS, cost.MANY_LOTS, cost.LARGE_LOTS]


def test_more_sensors_cost_more_and_the_fleets_own_part_does_not_grow() -> None:
    one, two, three = (cost.bill(n).total for n in (1_000, 2_000, 3_000))
    assert 0 < one < two < three
    assert one > 1_000 * (two - one) / 1_000, "there is a part that no sensor has"
    alarms = {line.usd for n in (1, 10_000) for line in cost.bill(n).lines if line.what == "alarms"}
    assert len(alarms) == 1


def test_two_sources_are_polled_twice_and_sensors_are_not_counted_twice() -> None:
    one, two = cost.bill(1_000), cost.bill(1_000, 2)
    assert two.invocations["poll_readings"] == 2 * one.invocations["poll_readings"]
    assert two.a_month("readings_writes") == pytest.approx(one.a_month("readings_writes"))
    assert two.a_month("other_writes") > one.a_month("other_writes")


def test_what_the_bill_knows_of_the_stack_is_as_there() -> None:
    template = synthesized("local")
    assert len(resources_of(template, "AWS::CloudWatch::Alarm")) == cost.ALARMS
    for name, lots, writes in (("local", cost.MANY_LOTS, None), ("prod", cost.ONE_LOT, cost.ONE_LOT_WRITES)):
        template, bill = synthesized(name), cost.bill(5_000, is_provisioned=writes is not None)
        functions = functions_of(template)
        assert {one: functions[f"sensors.{one}"]["MemorySize"] for one in cost.FUNCTIONS} == {
            one: bill._memory_mb(one) for one in cost.FUNCTIONS
        }
        detecting = functions["sensors.detect_anomalies"]
        assert detecting["Environment"]["Variables"]["MEASURES_REMEMBERED"] == str(lots.remembered)
        (stream,) = resources_of(template, "AWS::Lambda::EventSourceMapping").values()
        assert stream["ParallelizationFactor"] == bill.lots.side_by_side == lots.side_by_side
        assert (stream["MaximumBatchingWindowInSeconds"], stream["BatchSize"]) == (cost.LOT_SECONDS, cost.LOT_READINGS)
        (readings,) = (
            table for table in resources_of(template, "AWS::DynamoDB::Table").values() if "StreamSpecification" in table
        )
        assert readings.get("ProvisionedThroughput", {}).get("WriteCapacityUnits") == writes
    for known, deployed in (
        (cost.ONE_LOT, ONE_LOT),
        (cost.MANY_LOTS, MANY_LOTS),
        (cost.LARGE_LOTS, LARGE_LOTS),
    ):
        assert known == cost.Lots(deployed.side_by_side, deployed.memory_mb, deployed.measures_remembered)
    assert (cost.ONE_LOT_WRITES, cost.MANY_LOTS_WRITES) == (ONE_LOT_WRITES, MANY_LOTS_WRITES)
    assert timedelta(minutes=cost.READ_AGAIN_MINUTES) == READ_AGAIN_AFTER
    assert timedelta(minutes=cost.CUTOFFS_AGAIN_MINUTES) == CACHE_FOR
    assert cost.NAMED_A_SECOND == MOST_LOGGED
    assert cost.BUCKETS == BUCKETS == Sensors.model_fields["export_buckets"].default
    assert Sensors.model_fields["retention_days"].default == cost.RETENTION_DAYS
    assert Sensors.model_fields["training_window_days"].default == cost.WINDOW_DAYS


def test_every_price_has_its_source_and_the_table_its_date() -> None:
    prices = tomllib.loads(cost.PRICES.read_text())
    date.fromisoformat(prices.pop("date"))
    assert prices.pop("region") == "us-east-1"
    assert all(service["source"].startswith("https://aws.amazon.com/") for service in prices.values())


def test_people_see_the_bill_what_is_assumed_and_what_is_not_in_it() -> None:
    ran = CliRunner().invoke(main, ["cost", "--sensors", "5000"], env={"COLUMNS": "120"})
    assert ran.exit_code == 0, ran.output
    for words in ("A month of 5,000 sensors", "X-Ray", "`provisioned_writes`", "Prices of 2026", "Not in it: texts"):
        assert words in ran.output
    told = json.loads(CliRunner().invoke(main, ["cost", "--sensors", "5000", "--json"]).output)
    assert told["usd"] == pytest.approx(sum(line["usd"] for line in told["lines"]))
    provisioned = sum(line["usd"] for line in told["lines_with_provisioned_writes"])
    assert told["usd_with_provisioned_writes"] == pytest.approx(provisioned)
    assert provisioned < told["usd"]
    assert CliRunner().invoke(main, ["cost", "--sensors", "0"]).exit_code == 2
