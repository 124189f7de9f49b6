"""What a month costs, by fleet, beside CloudWatch, and what each saving is worth: `python -m benchmarks.money`.

Nothing is timed here: it is `overcut cost`, of calls counted from the running code and a dated table of prices.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from unittest.mock import patch

from benchmarks.measured import Row, write
from workbench import cost

FLEETS = (100, 1_000, 5_000, 20_000, 100_000)
# https://aws.amazon.com/cloudwatch/pricing/: a metric, and an alarm on its anomalies, the first tier
CLOUDWATCH_USD = 0.30 + 0.30
# each saving as it was before, by what `workbench.cost` knows it by
BEFORE: Mapping[str, Mapping[str, object]] = {
    "as it is": {},
    "one instance of detect_anomalies, always the same": {"instances of detect_anomalies that take turns": 1.0},
    "five that take turns": {"instances of detect_anomalies that take turns": 5.0},
    "nothing remembered of a sensor": {"REMEMBERED": 0},
    "readings judged a quarter of a second after they came": {"LOT_SECONDS": 0.25},
    "capacity scaled to be used to seven tenths": {"UTILIZATION": 0.7},
}


def main() -> None:
    write(
        "money", {"A month, in US dollars:": list(_fleets()), "5,000 sensors, were it otherwise:": list(_otherwise())}
    )


def _fleets() -> Iterator[Row]:
    for sensors in FLEETS:
        found = cost.bill(sensors)
        yield {
            "sensors": f"{sensors:,}",
            "paid by request": round(found.total, 2),
            "with provisioned_writes": round(found.total_provisioned, 2),
            "a thousand sensors": round(1_000 * found.total_provisioned / sensors, 2),
            "CloudWatch": round(CLOUDWATCH_USD * sensors, 2),
            "CloudWatch over ours": round(CLOUDWATCH_USD * sensors / found.total_provisioned, 1),
        }


def _otherwise() -> Iterator[Row]:
    for name, values in BEFORE.items():
        with ExitStack() as stack:
            for known, value in values.items():
                stack.enter_context(
                    patch.dict(cost.ASSUMED, {known: value})
                    if known in cost.ASSUMED
                    else patch.object(cost, known, value)
                )
            found = cost.bill(5_000)
            detecting = next(line.usd for line in found.lines if line.what.startswith("detect_anomalies"))
            yield {
                "": name,
                "paid by request": round(found.total, 2),
                "with provisioned_writes": round(found.total_provisioned, 2),
                "of that, running detect_anomalies": round(detecting, 2),
            }


if __name__ == "__main__":
    main()
