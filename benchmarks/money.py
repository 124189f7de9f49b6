"""What a month costs, by fleet, beside CloudWatch, and what each saving is worth: `python -m benchmarks.money`.

Nothing is timed here: it is `overcut cost`, of calls counted from the running code and a dated table of prices.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

from benchmarks.measured import Row, write
from workbench import cost

FLEETS = (100, 1_000, 5_000, 20_000, 100_000)
# https://aws.amazon.com/cloudwatch/pricing/: a metric, less after so many; an alarm on its anomalies
METRIC_USD, MANY_METRICS, OF_MANY_USD, ALARM_USD = 0.30, 10_000, 0.10, 0.30
# each saving as it was before, by what `workbench.cost` knows it by
BEFORE: Mapping[str, Mapping[str, object]] = {
    "as it is": {},
    "judged in ten lots by two instances that take turns": {"ONE_LOT_WRITES": 0},
    "nothing remembered of a sensor": {
        name: replace(getattr(cost, name), remembered=0) for name in ("ONE_LOT", "MANY_LOTS", "LARGE_LOTS")
    },
    "readings judged a quarter of a second after they came": {"LOT_SECONDS": 0.25},
    "capacity scaled to be used to seven tenths": {"UTILIZATION": 0.7},
}


def main() -> None:
    tables = {
        "A month, in US dollars:": list(_fleets()),
        "A sensor's share of a month, with provisioned_writes:": list(_shares()),
        "5,000 sensors, were it otherwise:": list(_otherwise()),
    }
    write("money", tables)


def _fleets() -> Iterator[Row]:
    for sensors in FLEETS:
        found, provisioned = _bills(sensors)
        yield {
            "sensors": f"{sensors:,}",
            "paid by request": round(found.total, 2),
            "with provisioned_writes": round(provisioned.total, 2),
            "a thousand sensors": round(1_000 * provisioned.total / sensors, 2),
            "CloudWatch": round(_cloudwatch(sensors), 2),
            "CloudWatch over ours": round(_cloudwatch(sensors) / provisioned.total, 1),
        }


def _cloudwatch(sensors: int) -> float:
    """A metric and an alarm of each."""
    few = min(sensors, MANY_METRICS)
    return METRIC_USD * few + OF_MANY_USD * (sensors - few) + ALARM_USD * sensors


def _shares() -> Iterator[Row]:
    for sensors in FLEETS:
        _, bill = _bills(sensors)
        yield {
            "sensors": f"{sensors:,}",
            "cents": round(100 * bill.total / sensors, 2),
            "seconds that functions run": round(sum(map(bill.seconds, cost.FUNCTIONS)) / sensors),
            "of that, seconds of a core": round(bill.a_month("cpu_ms") / 1_000 / sensors),
            "calls of AWS": round(bill.a_month("calls") / sensors),
        }


def _bills(sensors: int) -> tuple[cost.Bill, cost.Bill]:
    return cost.bill(sensors), cost.bill(sensors, is_provisioned=True)


def _otherwise() -> Iterator[Row]:
    for name, values in BEFORE.items():
        with ExitStack() as stack:
            for known, value in values.items():
                stack.enter_context(patch.object(cost, known, value))
            found, provisioned = _bills(5_000)
            detecting = next(line.usd for line in provisioned.lines if line.what.startswith("detect_anomalies"))
            yield {
                "": name,
                "paid by request": round(found.total, 2),
                "with provisioned_writes": round(provisioned.total, 2),
                "of that, running detect_anomalies": round(detecting, 2),
            }


if __name__ == "__main__":
    main()
