"""How fast readings become Parquet, and in how much memory: `python -m benchmarks.export`.

An hour of 300 sensors with three measures each, as `test_memory` has it: 18,000 readings, 54,000 rows. Ours is what
export_training_set does with readings as they come; pyarrow's the same rows, compressed alike, made a table of at once
as its manual has it, or in the same batches of a thousand. Memory is the whole process's, with the readings in it.

DynamoDB exports to S3 by itself, too. Nobody can run that here: what either costs is arithmetic, ours of counted calls.
"""

import io
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.measured import Row, peak_mb, ratio, rounds, spread, write
from lambdas.runtime.dynamodb import in_batches
from overcut.sensors.readings import Reading
from workbench import cost

SENSORS, MINUTES, ROUNDS, FLEET = 300, 60, 7, 5_000
MEASURES = ("humidity", "power", "temperature")
ROWS = SENSORS * MINUTES * len(MEASURES)
OURS, PYARROW = "Overcut (arro3)", "pyarrow"


def main() -> None:
    found = rounds(list(WAYS), ["benchmarks.export"], ROUNDS)
    rows = [
        {
            "way": way,
            "rows a second of one core": spread(ROWS / one["cpu_seconds"] for one in found[way]),
            "of pyarrow's": ratio(*([one["cpu_seconds"] for one in found[other]] for other in (PYARROW, way))),
            "peak MB": spread(one["peak_mb"] for one in found[way]),
            "KB written": found[way][0]["kilobytes"],
        }
        for way in WAYS
    ]
    tables = {"": rows, f"A month of {FLEET:,} sensors, on paper, in US dollars:": on_paper(cost.bill(FLEET))}
    write("export", tables, ["arro3-core", "arro3-io", "pyarrow"])


def on_paper(bill: cost.Bill) -> list[Row]:
    """What exporting a fleet costs in a month, paid by request, and how old a reading may be before it can be used."""
    price, function = bill.prices, "export_training_set"

    def asked(what: str) -> float:
        return bill.counted(function, what) * cost.HOURS

    ours = (
        (asked("readings_reads") + asked("other_reads")) / 1e6 * price["dynamodb"]["read_units_million"]
        + asked("other_writes") / 1e6 * price["dynamodb"]["write_units_million"]
        + asked("s3_puts") / 1_000 * price["s3"]["puts_thousand"]
        + bill.invocations[function] / 1e6 * price["lambda"]["requests_million"]
        + sum(line.usd for line in bill.lines if line.what.startswith(function) or line.service == "Step Functions")
    )
    a_gb = price["dynamodb"]["exported_gb"]
    a_minute_gb = bill.sensors * bill.counts["reading_bytes"] / cost.GB
    kept_gb = a_minute_gb * cost.RETENTION_DAYS * 24 * 60
    return [
        {"way": OURS, "dollars": round(ours, 2), "at most old": "65 minutes", "leaves": "Parquet"},
        {
            "way": "DynamoDB, what is new, every 15 minutes",
            "dollars": round(a_gb * a_minute_gb * cost.MINUTES, 2),
            "at most old": "15 minutes, and what an export takes",
            "leaves": "JSON or Ion",
        },
        {
            "way": "DynamoDB, the whole table, every night",
            "dollars": round(a_gb * kept_gb * cost.NIGHTS, 2),
            "at most old": "a day, and what an export takes",
            "leaves": "JSON or Ion",
        },
    ]


def readings() -> list[Reading]:
    begins, of = datetime(2026, 3, 2, tzinfo=UTC), random.Random(1)
    return [
        Reading(
            f"unit-{k}",
            begins + minute * timedelta(minutes=1),
            {measure: round(of.gauss(4, 1), 1) for measure in MEASURES},
        )
        for k in range(SENSORS)
        for minute in range(MINUTES)
    ]


def ours() -> Callable[[Sequence[Reading]], bytes]:
    from lambdas.sensors.export_training_set.exporting import readings_to_parquet

    return lambda some: readings_to_parquet(some)[0]


def pyarrow() -> Callable[[Sequence[Reading]], bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def run(some: Sequence[Reading]) -> bytes:
        written = io.BytesIO()
        table = pa.Table.from_pylist(_rows(some), schema=_schema(pa))
        pq.write_table(table, written, compression="zstd", compression_level=3)
        return written.getvalue()

    return run


def pyarrow_in_batches() -> Callable[[Sequence[Reading]], bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def run(some: Sequence[Reading]) -> bytes:
        written = io.BytesIO()
        batches = [pa.RecordBatch.from_pylist(_rows(batch), schema=_schema(pa)) for batch in in_batches(some, 1_000)]
        pq.write_table(pa.Table.from_batches(batches), written, compression="zstd", compression_level=3)
        return written.getvalue()

    return run


def _schema(pa: Any) -> Any:
    at = pa.timestamp("us", tz="UTC")
    columns = {"sensor_id": pa.string(), "measured_at": at, "measure": pa.string(), "value": pa.float64()}
    return pa.schema(list(columns.items()))


def _rows(some: Sequence[Reading]) -> list[dict[str, Any]]:
    return [
        {"sensor_id": one.sensor_id, "measured_at": one.measured_at, "measure": measure, "value": value}
        for one in some
        for measure, value in sorted(one.values.items())
    ]


WAYS: Mapping[str, Callable[[], Callable[[Sequence[Reading]], bytes]]] = {
    OURS: ours,
    PYARROW: pyarrow,
    "pyarrow, in batches of a thousand": pyarrow_in_batches,
}


def measure(way: str) -> dict[str, float]:
    """What one export of a way takes."""
    some, run = readings(), WAYS[way]()
    run(some[:100])
    used = time.process_time()
    written = run(some)
    used = time.process_time() - used
    return {"cpu_seconds": used, "peak_mb": peak_mb(), "kilobytes": round(len(written) / 1024)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(sys.argv[1])))
    else:
        main()
