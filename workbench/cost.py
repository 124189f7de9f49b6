"""`overcut cost`: what the sensors pipeline costs in a month, from counted calls and a dated price table.

What the functions ask AWS for is counted from the running code (`tests/functional/counting.py`) for two fleets; between
them lies what a sensor takes, and the rest is the fleet's. Prices are those of `prices/us-east-1.toml`.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

PRICES = Path(__file__).parent / "prices" / "us-east-1.toml"
COUNTS = Path(__file__).parent / "prices" / "counts.json"
HOURS, NIGHTS = 730, 30.4
MINUTES = HOURS * 60
FUNCTIONS = ("poll_readings", "detect_anomalies", "watch_sensors", "export_training_set")
GB = 1e9
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: a whole core comes with 1,769 MB
MEMORY_MB, WHOLE_CORE_MB = 128, 1_769
# what waits is handed to detect_anomalies after so many seconds, or readings
LOT_SECONDS, LOT_READINGS = 20, 500
# write units a second of the Readings table, up to which a provisioned one is judged in one lot, and in lots of 512 MB
ONE_LOT_WRITES, MANY_LOTS_WRITES = 100, 600
# how long an instance of it relies on what it remembers of a sensor's readings, and of its cutoffs
READ_AGAIN_MINUTES, CUTOFFS_AGAIN_MINUTES = 30, 10
# a poll's log names no more readings a second
NAMED_A_SECOND = 20
# what DynamoDB adds to an item that is stored
ITEM_OVERHEAD_BYTES = 100
# a table's capacity is scaled to be used to that part
UTILIZATION = 0.9
ALARMS = 16
BUCKETS, RETENTION_DAYS, WINDOW_DAYS = 16, 30, 14
# what is not counted but taken as given; in milliseconds, seconds, bytes, and units of DynamoDB
ASSUMED = {
    "a call of AWS takes ms": 5.0,
    "a poll holds its stream for seconds": 61.0,
    # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html: a new table takes
    # 4,000 writes a second, and a partition 1,000
    "shards of a table that is paid by request": 4.0,
    "instances of detect_anomalies that take turns, where they judge many lots": 2.0,
    "Lambda's own lines in the log, bytes an invocation": 400.0,
    "a training takes seconds": 300.0,
    "and for each sensor": 0.2,
    "write units of a sensor's new cutoff": 4.0,
}
NOT_IN_IT = (
    "texts: SMS is billed by country and carrier",
    "incidents: they are rare, and cost what few writes cost",
    "the ETL pipeline, own_key, private_network, data transfer, workflows' logs, free tiers, support and taxes",
)


@dataclass(frozen=True)
class Lots:
    """How a shard's readings are judged: in so many lots side by side, by instances of that memory, each of which
    remembers so many sensors of one measure."""

    side_by_side: int
    memory_mb: int
    remembered: int


ONE_LOT, MANY_LOTS, LARGE_LOTS = Lots(1, 1_769, 166_900), Lots(10, 512, 41_200), Lots(10, 1_769, 166_900)


@dataclass(frozen=True)
class Line:
    """One line of the bill; `quantity` of what `what` names."""

    service: str
    what: str
    quantity: float
    usd: float


@dataclass(frozen=True)
class Bill:
    """A month's bill of so many sensors, a reading a minute each, that `sources` stream.

    Args:
        prices: as `prices/us-east-1.toml` has them.
        counts: as `prices/counts.json` has them.
        is_provisioned: with `provisioned_writes` of this many sensors, instead of paid by request. Capacity is taken as
            scaled to what is used; bursts and its minimum may cost more.
    """

    sensors: int
    sources: int
    prices: Mapping[str, Any]
    counts: Mapping[str, Any]
    is_provisioned: bool = False

    @property
    def lots(self) -> Lots:
        if self.is_provisioned and self.sensors <= 60 * ONE_LOT_WRITES:
            return ONE_LOT
        return LARGE_LOTS if self.is_provisioned and self.sensors > 60 * MANY_LOTS_WRITES else MANY_LOTS

    @property
    def instances(self) -> float:
        """How many instances of detect_anomalies take turns."""
        if self.lots == ONE_LOT:
            return 1.0
        return ASSUMED["instances of detect_anomalies that take turns, where they judge many lots"]

    def counted(self, function: str, what: str) -> float:
        """How often a function asks for something in its period, a minute or an hour, with this many sensors."""
        if function == "detect_anomalies":
            cases = {case: self._counted(f"{function} minute, {case}", what) for case in self.shares}
            cases["but for cutoffs"] -= cases["remembered"]
            return sum(share * cases[case] for case, share in self.shares.items())
        periods = next(iter(self.counts["fleets"].values()))
        return self._counted(next(name for name in periods if name.startswith(function)), what)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Of the readings: how they find what detect_anomalies remembers of their sensors."""
        fits = self.sensors <= self.lots.remembered
        anew = min(1.0, self.instances / READ_AGAIN_MINUTES) if fits else 1.0
        return {
            "read anew": anew,
            "one missed": (1 - anew) * (1 - 1 / self.instances),
            "remembered": (1 - anew) / self.instances,
            "but for cutoffs": min(1.0, self.instances / CUTOFFS_AGAIN_MINUTES) if fits else 1.0,
        }

    def _counted(self, period: str, what: str) -> float:
        few, many = sorted(map(int, self.counts["fleets"]))
        at_few, at_many = (self.counts["fleets"][str(fleet)][period].get(what, 0.0) for fleet in (few, many))
        if what in {"cpu_ms", "exported_bytes"}:
            # two of these differ by chance as well: what the larger fleet takes is shared out
            return float(at_many * self.sensors / many)
        a_sensor = (at_many - at_few) / (many - few)
        sensors = min(self.sensors, 60 * NAMED_A_SECOND * self.sources) if what == "log_bytes" else self.sensors
        value = at_few + a_sensor * (sensors - few)
        times = self.sources if period.startswith("poll_readings") else 1
        # what is the fleet's own is there once a source
        return float(max(0.0, value + (times - 1) * (at_few - a_sensor * few)))

    def a_month(self, what: str) -> float:
        """How often all functions together ask for something."""
        return sum(self.counted(function, what) * _periods(function) for function in FUNCTIONS)

    @cached_property
    def invocations(self) -> dict[str, float]:
        """A month's, by function. Readings of a lot wait for each other."""
        counted = {name: self.counted(name, "invocations") for name in FUNCTIONS}
        counted["poll_readings"] = self.sources
        shards = 1.0 if self.is_provisioned else ASSUMED["shards of a table that is paid by request"]
        lots = max(shards * self.lots.side_by_side * 60 / LOT_SECONDS, self.sensors / LOT_READINGS)
        counted["detect_anomalies"] = min(self.sensors, lots)
        return {name: number * _periods(name) for name, number in counted.items()}

    @cached_property
    def lines(self) -> list[Line]:
        return [
            *self._lambda(),
            *self._dynamodb(),
            *self._s3(),
            *self._workflows(),
            *self._observability(),
            *self._secrets(),
        ]

    @property
    def total(self) -> float:
        return sum(line.usd for line in self.lines)

    def _lambda(self) -> Iterator[Line]:
        price = self.prices["lambda"]
        number = sum(self.invocations.values())
        yield Line("Lambda", "invocations", number, number / 1e6 * price["requests_million"])
        for function in FUNCTIONS:
            gb_seconds = self.seconds(function) * self._memory_mb(function) / 1024
            yield Line("Lambda", f"{function}, GB-seconds", gb_seconds, gb_seconds * price["gb_second_arm64"])

    def _memory_mb(self, function: str) -> int:
        return self.lots.memory_mb if function == "detect_anomalies" else MEMORY_MB

    def seconds(self, function: str) -> float:
        """How long a function runs in a month: its own work at its share of a core, and its calls."""
        if function == "poll_readings":
            return self.invocations[function] * ASSUMED["a poll holds its stream for seconds"]
        work = self.counted(function, "cpu_ms") * WHOLE_CORE_MB / self._memory_mb(function)
        calls = self.counted(function, "calls") * ASSUMED["a call of AWS takes ms"]
        return (work + calls) / 1000 * _periods(function)

    def _dynamodb(self) -> Iterator[Line]:
        price = self.prices["dynamodb"]
        cutoffs = self.sensors * ASSUMED["write units of a sensor's new cutoff"] * NIGHTS
        for table, kind, more in (
            ("Readings table", "writes", 0.0),
            ("Readings table", "reads", 0.0),
            ("other tables", "writes", cutoffs),
            ("other tables", "reads", 0.0),
        ):
            units = self.a_month(f"{'readings' if table == 'Readings table' else 'other'}_{kind}") + more
            kind = kind.removesuffix("s")
            if self.is_provisioned and table == "Readings table":
                hourly = self.prices["dynamodb_provisioned"][f"{kind}_unit_hour"]
                usd = units / 3600 / UTILIZATION * hourly
            else:
                usd = units / 1e6 * price[f"{kind}_units_million"]
            yield Line("DynamoDB", f"{table}, {kind} units", units, usd)
        stored = self.sensors * RETENTION_DAYS * 24 * 60 * (self.counts["reading_bytes"] + ITEM_OVERHEAD_BYTES) / GB
        usd = stored * (price["stored_gb_month"] + price["recoverable_gb_month"])
        yield Line("DynamoDB", f"{RETENTION_DAYS} days of readings, recoverable, GB", stored, usd)

    def _s3(self) -> Iterator[Line]:
        price = self.prices["s3"]
        puts = self.a_month("s3_puts")
        yield Line("S3", "PUT and LIST requests", puts, puts / 1000 * price["puts_thousand"])
        gets = self.a_month("s3_gets") + BUCKETS * 24 * WINDOW_DAYS * NIGHTS
        yield Line("S3", "GET requests", gets, gets / 1000 * price["gets_thousand"])
        stored = self.counted("export_training_set", "exported_bytes") * HOURS / GB
        yield Line("S3", "a month's readings, GB; each month adds as much", stored, stored * price["stored_gb_month"])

    def _workflows(self) -> Iterator[Line]:
        # of an export: begin, buckets, each bucket; a training exports first, then runs its job
        transitions = (BUCKETS + 3) * HOURS + (BUCKETS + 4) * NIGHTS
        usd = transitions / 1000 * self.prices["step_functions"]["transitions_thousand"]
        yield Line("Step Functions", "transitions", transitions, usd)
        ((instance, price),) = self.prices["sagemaker"]["training_hour"].items()
        seconds = ASSUMED["a training takes seconds"] + self.sensors * ASSUMED["and for each sensor"]
        hours = seconds / 3600 * NIGHTS
        yield Line("SageMaker", f"hours of {instance}", hours, hours * price)

    def _observability(self) -> Iterator[Line]:
        price = self.prices["cloudwatch"]
        own = sum(self.invocations.values()) * ASSUMED["Lambda's own lines in the log, bytes an invocation"]
        # however many readings an invocation has, they leave one line
        times = {name: _periods(name) for name in FUNCTIONS} | {
            "detect_anomalies": self.invocations["detect_anomalies"]
        }
        told = sum(self.counted(name, "log_bytes") * times[name] for name in FUNCTIONS)
        logged = (own + told) / GB
        yield Line("CloudWatch", "logs, GB", logged, logged * price["logs_gb"])
        metrics = len(self.counts["metrics"])
        yield Line("CloudWatch", "metrics", metrics, metrics * price["metric_month"])
        yield Line("CloudWatch", "alarms", ALARMS, ALARMS * price["alarm_month"])
        yield Line("CloudWatch", "dashboards", 1, price["dashboard_month"])
        traces = sum(_sampled(number / MINUTES) * MINUTES for number in self.invocations.values())
        yield Line("X-Ray", "traces", traces, traces / 1e6 * self.prices["xray"]["traces_million"])

    def _secrets(self) -> Iterator[Line]:
        price = self.prices["secrets_manager"]
        calls = self.invocations["poll_readings"]
        usd = self.sources * price["secret_month"] + calls / 10_000 * price["calls_ten_thousand"]
        yield Line("Secrets Manager", "secrets, each read at every poll", self.sources, usd)


def _periods(function: str) -> int:
    """How many of a function's periods a month has."""
    return HOURS if function == "export_training_set" else MINUTES


def _sampled(a_minute: float) -> float:
    """The first of a second, and one of twenty others: https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html"""
    first = min(a_minute, 60.0)
    return first + 0.05 * (a_minute - first)


def bill(sensors: int, sources: int = 1, *, is_provisioned: bool = False) -> Bill:
    """The bill by the prices and counts that are kept here."""
    prices, counts = tomllib.loads(PRICES.read_text(encoding="utf-8")), json.loads(COUNTS.read_text(encoding="utf-8"))
    return Bill(sensors, sources, prices, counts, is_provisioned)


@click.command()
@click.option("--sensors", type=click.IntRange(1, 1_000_000), required=True, help="How many, a reading a minute each.")
@click.option("--sources", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Streams they come by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cost(sensors: int, sources: int, as_json: bool) -> None:
    """Estimate a month's bill of the sensors pipeline, by service.

    From calls counted in the running code, and AWS's prices in US East of a day that is told.
    """
    found = bill(sensors, sources)
    provisioned = replace(found, is_provisioned=True)
    if as_json:
        told = {
            "sensors": sensors,
            "sources": sources,
            "region": found.prices["region"],
            "prices_of": str(found.prices["date"]),
            "counted_on": found.counts["date"],
            "lines": [asdict(line) for line in found.lines],
            "usd": found.total,
            "lines_with_provisioned_writes": [asdict(line) for line in provisioned.lines],
            "usd_with_provisioned_writes": provisioned.total,
            "assumed": ASSUMED,
            "not_in_it": NOT_IN_IT,
        }
        click.echo(json.dumps(told, indent=2))
        return
    table = Table("service", "what", title=f"A month of {sensors:,} sensors", title_justify="left")
    for heading in ("quantity", "USD", "provisioned"):
        table.add_column(heading, justify="right")
    for line, other in zip(found.lines, provisioned.lines, strict=True):
        table.add_row(line.service, line.what, _quantity(line.quantity), f"{line.usd:,.2f}", f"{other.usd:,.2f}")
    table.add_section()
    table.add_row("all", "", "", f"{found.total:,.2f}", f"{provisioned.total:,.2f}")
    Console().print(table)
    click.echo("Provisioned: with `provisioned_writes` of so many sensors; the quantity is without it.")
    click.echo(
        f"Prices of {found.prices['date']}, {found.prices['region']}, without free tiers; calls counted on"
        f" {found.counts['date']}. An estimate: --json lists what is assumed."
    )
    click.echo("Not in it: " + "; ".join(NOT_IN_IT) + ".")


def _quantity(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")
