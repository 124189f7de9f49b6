"""Job runs from the data lake: <lake>/dt=YYYY-MM-DD/**.jsonl[.gz] -> historical/ or recent/, rejected/, extractions/.

Runs by `spark-submit` on Spark 4 and needs nothing but PySpark. One record of the lake is one change of state of one
run; one row of the output is one run, as of its last state before `until`:

    historical/dt=<UTC day of the start>/  finished runs that started in the window; its days are replaced, no others
    recent/bucket=<crc32(job_name) % n>/   runs that started or changed in the window, running ones too; all replaced
    rejected/<mode>/                       JSON lines: what cannot be used, the reason, and the file it was in
    extractions/<mode>/                    one JSON line: counts

The window is `days` whole UTC days and the day of `until` up to then. Everything is SQL expressions: no row passes
through Python, and only counts reach the driver.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import ArrayType, DataType, StringType, StructField, StructType

FIELDS = {
    "job_name": "job.name",
    "schedule": "job.schedule",
    "time_zone": "job.time_zone",
    "run_id": "run.id",
    "state": "state",
    "occurred_at": "occurred_at",
    "recorded_at": "recorded_at",
    "records_processed": "metrics.records.processed",
    "started_at": "run.started_at",
}
STATES = {
    "RUNNING": ("STARTED", "RUNNING"),
    "SUCCEEDED": ("SUCCEEDED", "SUCCESS", "COMPLETED"),
    "FAILED": ("FAILED", "ERROR", "CANCELLED", "TIMED_OUT"),
}
DAY_FOLDERS = "dt=%Y-%m-%d"
# runs that started this long before the window are known when they end in it
MARGIN_DAYS = 7
SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # as few parts as the data asks for, in what is kept between steps too
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}

_NAMES = ("job_name", "run_id")
_TIMES = ("occurred_at", "recorded_at", "started_at")
_IN_CAPITALS = (*_TIMES, "state", "records_processed")
# what a job run may be, as in overcut.etl_jobs.job_runs
_LONGEST_TEXT = 256
_LONGEST_SECONDS = 366 * 86_400.0
_MOST_RECORDS = 2**53
# years that every reader of the output can tell
_FIRST_AND_LAST = ("1970-01-01T00:00:00Z", "9998-12-31T00:00:00Z")
_OFFSET = r"(Z|[+-]\d\d(:?\d\d)?)$"
_TIME = rf"^\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{{1,9}})?)?({_OFFSET})?$"
_NUMBER = r"^[+-]?\d+(\.\d*)?(E[+-]?\d+)?$"
# Java's \S alone takes a no-break space for text
_NOT_BLANK = r"(?U)[^\s\x1c-\x1f]"
_UNREADABLE = re.compile(r"FAILED_READ_FILE\S* Encountered error while reading file (\S+\.gz)\.\s+SQLSTATE")


class ExtractionError(Exception):
    """The extraction cannot be made; the message says what a person has to put right."""


@dataclass(frozen=True)
class Extraction:
    """One extraction.

    Attributes:
        mode: `historical` or `recent`.
        lake, output: folders, such as `s3://bucket/lake/`.
        until: aware; records recorded at or after it are ignored.
        days: of the window.
        buckets: of recent/.
        fields: the dotted path of each of `FIELDS` in a record.
        day_folders: how a day's folder is called below the lake, for `strftime`.
    """

    mode: str
    lake: str
    output: str
    until: datetime
    days: int
    buckets: int
    fields: Mapping[str, str]
    day_folders: str

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Extraction":
        parser = argparse.ArgumentParser(description="Extract job runs from the data lake.", allow_abbrev=False)
        parser.add_argument("--mode", choices=("historical", "recent"), required=True)
        parser.add_argument("--lake", required=True)
        parser.add_argument("--output", required=True)
        parser.add_argument("--until", type=_aware, required=True, metavar="TIME", help="ISO 8601 with an offset")
        parser.add_argument("--days", type=_positive, required=True)
        parser.add_argument("--buckets", type=_positive, default=16)
        parser.add_argument("--fields", type=_fields, default=FIELDS, help="JSON, or NAME=PATH,...")
        parser.add_argument("--day-folders", default=DAY_FOLDERS, metavar="FORMAT")
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def first_day(self) -> date:
        return self.until.astimezone(UTC).date() - timedelta(days=self.days)

    @property
    def last_day(self) -> date:
        return (self.until.astimezone(UTC) - timedelta(microseconds=1)).date()

    def folder_of(self, day: date) -> str:
        return f"{self.lake.rstrip('/')}/{day.strftime(self.day_folders).strip('/')}"

    def target(self, name: str) -> str:
        return f"{self.output.rstrip('/')}/{name}"


def main() -> None:
    """Extract what the command line says, and print the counts as JSON."""
    extraction = Extraction.parse(sys.argv[1:])
    spark = SparkSession.builder.appName(f"extract-{extraction.mode}").config(map=dict(SETTINGS)).getOrCreate()
    try:
        print(json.dumps(extract(spark, extraction)))  # noqa: T201 - the job's log
    except ExtractionError as error:
        sys.exit(str(error))
    finally:
        spark.stop()


def extract(spark: SparkSession, extraction: Extraction) -> dict[str, Any]:
    """Write the rows, what was rejected and the counts; return the counts.

    Raises:
        ExtractionError: there is no lake.
    """
    folders = existing_folders(spark, extraction)
    # of a day whose folder is gone, only runs that went on after it are left: its rows stay as they are
    first_day = max([extraction.first_day, *list(folders)[:1]])
    records, damaged = read_records(spark, extraction, list(folders.values()))
    runs = in_window(rows(last_states(records)), extraction.mode, first_day, extraction.last_day)
    runs = runs.persist(StorageLevel.DISK_ONLY)
    rejected = all_rejected(records, runs, damaged)
    _write_lines(rejected, extraction.target(f"rejected/{extraction.mode}"))
    if extraction.mode == "recent":
        write_recent(runs.where("reason is null"), extraction)
    elif folders:
        write_historical(runs.where("reason is null"), extraction, first_day)
    reasons = {row["reason"]: row["count"] for row in rejected.groupBy("reason").count().sort("reason").collect()}
    newest = runs.agg(F.max("recorded_at").alias("newest")).collect()[0]["newest"]
    counts = {
        "mode": extraction.mode,
        "until": extraction.until.isoformat(),
        "folders": len(folders),
        "lines": records.count(),
        "runs": runs.where("reason is null").count(),
        "rejected": sum(reasons.values()),
        "reasons": reasons,
        # collected times are in this machine's zone
        "newest_recorded_at": newest and newest.astimezone(UTC).isoformat(),
    }
    counted = _one_row(spark, value=json.dumps(counts)).write.mode("overwrite")
    counted.text(extraction.target(f"extractions/{extraction.mode}"))
    return counts


# ---- reading ----


def existing_folders(spark: SparkSession, extraction: Extraction) -> dict[date, str]:
    """The folders of the window's days and the margin before it that exist, by day, ascending.

    Raises:
        ExtractionError: there is no lake.
    """
    if not _exists(spark, extraction.lake):
        raise ExtractionError(
            f"There is no data lake at {extraction.lake}: looked for folders such as "
            f"{extraction.folder_of(extraction.last_day)}. See --lake and --day-folders."
        )
    days = list(_days(extraction.first_day - timedelta(days=MARGIN_DAYS), extraction.last_day))
    found = {day: extraction.folder_of(day) for day in days if _exists(spark, extraction.folder_of(day))}
    if not found:
        print(f"No folder from {extraction.folder_of(days[0])} to {extraction.folder_of(days[-1])} exists.")  # noqa: T201
    return found


def read_records(spark: SparkSession, extraction: Extraction, folders: Sequence[str]) -> tuple[DataFrame, list[str]]:
    """Every line recorded before `until`, parsed and kept on disk, and the packed files that were read in part only.

    What can be unpacked of a damaged file is used; which one that is only shows when reading it fails.
    """
    damaged: list[str] = []
    while True:
        lines = _lines(spark, folders, damaged) if folders else _one_row(spark, line="", file="").limit(0)
        parts = parsed(lines, extraction.fields, extraction.until, _zones(spark)).persist(StorageLevel.DISK_ONLY)
        try:
            parts.count()
        except Exception as error:
            parts.unpersist()
            found = _UNREADABLE.search(str(error))
            if found is None:
                raise
            # the error writes file:///folder where the rows have file:/folder
            file = _path(spark, found[1]).toString()
            if file in damaged:
                raise
            damaged.append(file)
        else:
            return parts.where("not is_later"), damaged


def _lines(spark: SparkSession, folders: Sequence[str], damaged: Sequence[str]) -> DataFrame:
    def read(*, ignore_damage: bool) -> DataFrame:
        reader = spark.read.option("recursiveFileLookup", True).option("pathGlobFilter", "*.{jsonl,jsonl.gz}")
        text = reader.option("ignoreCorruptFiles", ignore_damage).text(list(folders))
        return text.select(F.col("value").alias("line"), F.col("_metadata.file_path").alias("file"))

    lines = read(ignore_damage=False)
    if damaged:
        is_damaged = F.col("file").isin(list(damaged))
        lines = lines.where(~is_damaged).unionAll(read(ignore_damage=True).where(is_damaged))
    return lines.where(F.col("line").rlike(_NOT_BLANK))


def parsed(lines: DataFrame, fields: Mapping[str, str], until: datetime, zones: Sequence[str]) -> DataFrame:
    """One row a line: its fields, or the `reason` why they are not used and the line itself.

    Each step is a selection of its own and none filters: else Spark would repeat the steps before for every use.
    """
    # as an array's only element, a line that holds more than one value is not taken for its first
    array = F.concat(F.lit('{"records":['), "line", F.lit("]}"))
    schema = StructType([StructField("records", ArrayType(_record_type(fields.values())))])
    strict = {"allowSingleQuotes": "false", "allowNonNumericNumbers": "false"}
    found = lines.withColumn("found", F.from_json(array, schema, strict)["records"])
    records = found.select("line", "file", F.when(F.size("found") == 1, F.get("found", F.lit(0))).alias("record"))
    texts = records.select("line", "file", "record", *(_at(path).alias(name) for name, path in fields.items()))
    trimmed = texts.withColumns({name: F.trim(name) for name in fields if name not in _NAMES})
    filled = trimmed.withColumns({name: F.when(F.col(name) != "", F.upper(name)) for name in _IN_CAPITALS})
    filled = filled.withColumns({name: F.when(F.col(name) != "", F.col(name)) for name in ("time_zone", "schedule")})
    # what is longer is no schedule, and would be stored with every run
    filled = filled.withColumn("schedule", F.when(F.length("schedule") <= _LONGEST_TEXT, F.col("schedule")))
    read = filled.withColumns(
        {
            "zone": F.when(F.coalesce("time_zone", F.lit("UTC")).isin(*zones), F.coalesce("time_zone", F.lit("UTC"))),
            "status": F.coalesce(*(F.when(F.col("state").isin(*words), name) for name, words in STATES.items())),
            "number": F.when(F.col("records_processed").rlike(_NUMBER), F.col("records_processed").try_cast("double")),
            **{f"{name}_read": F.when(F.col(name).rlike(_TIME), F.col(name).try_cast("timestamp")) for name in _TIMES},
        }
    )
    local = F.coalesce("zone", F.lit("UTC"))
    understood = read.withColumns(
        {
            "occurred_at_utc": _moment("occurred_at", local),
            "started_at_utc": _moment("started_at", local),
            "recorded_at_utc": _moment("recorded_at", F.lit("UTC")),
            "count": F.when(F.col("number").between(0, _MOST_RECORDS) & (F.col("number") % 1 == 0), F.col("number")),
        }
    )
    in_time = F.when(F.col("recorded_at").isNull(), F.col("occurred_at_utc")).otherwise(F.col("recorded_at_utc"))
    understood = understood.withColumn("recorded_at_utc", in_time)
    reasons = {
        "not JSON": F.col("record").isNull(),
        "no job_name": _is_blank("job_name"),
        "no run_id": _is_blank("run_id"),
        "job_name too long": F.char_length("job_name") > _LONGEST_TEXT,
        "run_id too long": F.char_length("run_id") > _LONGEST_TEXT,
        "unknown state": F.col("status").isNull(),
        "unknown time zone": F.col("zone").isNull(),
        "unreadable time": F.col("occurred_at_utc").isNull()
        | F.col("recorded_at_utc").isNull()
        | _is_lost("started_at", "started_at_utc"),
        "bad figure": _is_lost("records_processed", "count"),
    }
    refused = understood.withColumn("reason", _first_of(reasons))
    return refused.select(
        *("job_name", "run_id", "file", "status", "time_zone", "schedule", "reason"),
        F.when(F.col("reason").isNotNull(), F.col("line")).alias("line"),
        F.col("occurred_at_utc").alias("occurred_at"),
        F.col("recorded_at_utc").alias("recorded_at"),
        F.col("started_at_utc").alias("started_at"),
        F.col("count").try_cast("bigint").alias("records_processed"),
        F.coalesce(F.col("recorded_at_utc") >= F.lit(until), F.lit(False)).alias("is_later"),
    )


def _record_type(paths: Iterable[str]) -> DataType:
    """The type of a record that has a text at each of `paths`."""
    children: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        children.setdefault(name, []).extend([rest] if rest else [])
    return StructType(
        [StructField(name, _record_type(rests) if rests else StringType()) for name, rests in children.items()]
    )


def _at(path: str) -> Column:
    return reduce(Column.getField, path.split("."), F.col("record"))


def _moment(name: str, zone: Column) -> Column:
    """A field's time in UTC, that of `zone` where it names no offset; null where it is none.

    A local time that daylight saving skips is as much later; of one that occurs twice the earlier is meant.
    """
    read = F.col(f"{name}_read")
    moment = F.when(F.col(name).rlike(_OFFSET), read).otherwise(F.to_utc_timestamp(read, zone))
    first, last = (F.lit(limit).cast("timestamp") for limit in _FIRST_AND_LAST)
    return F.when(moment.between(first, last), moment)


def _is_blank(name: str) -> Column:
    return F.col(name).isNull() | ~F.col(name).rlike(_NOT_BLANK)


def _is_lost(text: str, value: str) -> Column:
    return F.col(text).isNotNull() & F.col(value).isNull()


def _first_of(reasons: Mapping[str, Column]) -> Column:
    return F.coalesce(*(F.when(condition, reason) for reason, condition in reasons.items()))


# ---- runs ----


def last_states(records: DataFrame) -> DataFrame:
    """One row a run: `last`, its last state, and what its other records tell of it.

    Of states at the same time a later record wins, then the end of the run; whatever is left decides by its value, so
    that the outcome never depends on the order of reading.
    """
    is_final = (F.col("status") != "RUNNING").alias("is_final")
    when = ("occurred_at", "recorded_at", is_final)
    start = F.least("started_at", F.when(F.col("status") == "RUNNING", F.col("occurred_at")))
    last = F.max(F.struct(*when, "status", "records_processed", "file"))
    usable = records.where("reason is null")
    return usable.groupBy("job_name", "run_id").agg(
        last.alias("last"),
        F.min(start).alias("started_at"),
        *(
            F.max(F.when(F.col(name).isNotNull(), F.struct(*when, name)))[name].alias(name)
            for name in ("time_zone", "schedule")
        ),
    )


def rows(runs: DataFrame) -> DataFrame:
    """The columns of the output, `file` of the last state, and the `reason` why a run cannot be used."""
    last, status = F.col("last"), F.col("last.status")
    time_zone = F.coalesce("time_zone", F.lit("UTC"))
    micros = F.unix_micros(last["occurred_at"]) - F.unix_micros("started_at")
    run_time = F.when(status != "RUNNING", micros / 1e6)
    unusable = {
        "no start found": F.col("started_at").isNull(),
        "succeeded without records": (status == "SUCCEEDED") & last["records_processed"].isNull(),
        "ends before it starts": run_time < 0,
        "ran for more than a year": run_time > _LONGEST_SECONDS,
    }
    return runs.select(
        "job_name",
        "run_id",
        "started_at",
        run_time.alias("run_time_seconds"),
        last["records_processed"].alias("records_processed"),
        status.alias("status"),
        F.weekday(F.from_utc_timestamp("started_at", time_zone)).alias("day_of_week"),
        last["recorded_at"].alias("recorded_at"),
        time_zone.alias("time_zone"),
        "schedule",
        last["file"].alias("file"),
        _first_of(unusable).alias("reason"),
    )


def in_window(runs: DataFrame, mode: str, first_day: date, last_day: date) -> DataFrame:
    """The runs that the mode writes, and those of the window that cannot be used.

    A run whose start lies before what was read is none of the window's unless something of it was recorded there.
    """
    last_change = F.greatest("started_at", "recorded_at")
    if mode == "recent":
        return runs.where(F.to_date(last_change) >= F.lit(first_day))
    day = F.to_date("started_at")
    rejected = F.col("reason").isNotNull() & (F.to_date(last_change) >= F.lit(first_day))
    finished = F.col("reason").isNull() & (F.col("status") != "RUNNING")
    return runs.where(rejected | (finished & day.between(F.lit(first_day), F.lit(last_day))))


def all_rejected(records: DataFrame, runs: DataFrame, damaged: Sequence[str]) -> DataFrame:
    """`line`, `reason` and `file` of what cannot be used; of a run, its last state stands for the line."""
    of_lines = records.where("reason is not null").select("line", "reason", "file")
    state = ("job_name", "run_id", "status", "started_at", "run_time_seconds", "records_processed", "recorded_at")
    of_runs = runs.where("reason is not null").select(F.to_json(F.struct(*state)).alias("line"), "reason", "file")
    of_files = (_one_row(records.sparkSession, line=None, reason="damaged file", file=file) for file in damaged)
    return reduce(DataFrame.unionByName, of_files, of_lines.unionByName(of_runs))


# ---- writing ----


def write_historical(runs: DataFrame, extraction: Extraction, first_day: date) -> None:
    """Replace the days from `first_day` to the last of the window; each is one file, or none without runs."""
    by_day = runs.drop("reason", "file").withColumn("dt", F.to_date("started_at")).repartition("dt")
    in_order = by_day.sortWithinPartitions("dt", "job_name", "started_at", "run_id")
    target = extraction.target("historical")
    in_order.write.mode("overwrite").option("partitionOverwriteMode", "dynamic").partitionBy("dt").parquet(target)
    # dynamic overwrite leaves a day alone that has no runs any more, such as one whose only run was corrected
    written = {row["dt"] for row in by_day.select("dt").distinct().collect()}
    for day in _days(first_day, extraction.last_day):
        if day not in written:
            _delete(runs.sparkSession, f"{target}/dt={day.isoformat()}")


def write_recent(runs: DataFrame, extraction: Extraction) -> None:
    """Replace all of recent/; each bucket is one file, or none without runs."""
    bucket = F.crc32(F.col("job_name").cast("binary")) % extraction.buckets
    by_bucket = runs.drop("reason", "file").withColumn("bucket", bucket.cast("int")).repartition("bucket")
    in_order = by_bucket.sortWithinPartitions("bucket", "job_name", "started_at", "run_id")
    target = extraction.target("recent")
    in_order.write.mode("overwrite").option("partitionOverwriteMode", "static").partitionBy("bucket").parquet(target)


def _write_lines(rows: DataFrame, target: str) -> None:
    """One file of JSON lines, in an order that a rerun repeats."""
    in_order = rows.repartition(1).sortWithinPartitions(*rows.columns)
    in_order.write.mode("overwrite").option("ignoreNullFields", False).json(target)


def _one_row(spark: SparkSession, **values: Any) -> DataFrame:
    return spark.range(0, 1, 1, 1).select(*(F.lit(value).alias(name) for name, value in values.items()))


# ---- what Spark's Java side knows ----


def _zones(spark: SparkSession) -> list[str]:
    """The time zones that Java and everyone else know."""
    zones = _jvm(spark).java.time.ZoneId.getAvailableZoneIds()
    return sorted(zone for zone in zones if not zone.startswith("SystemV/"))


def _exists(spark: SparkSession, folder: str) -> bool:
    path = _path(spark, folder)
    exists: bool = path.getFileSystem(_hadoop(spark)).exists(path)
    return exists


def _delete(spark: SparkSession, folder: str) -> None:
    path = _path(spark, folder)
    path.getFileSystem(_hadoop(spark)).delete(path, True)


def _path(spark: SparkSession, name: str) -> Any:
    return _jvm(spark).org.apache.hadoop.fs.Path(name)


def _hadoop(spark: SparkSession) -> Any:
    return spark.sparkContext._jsc.hadoopConfiguration()


def _jvm(spark: SparkSession) -> Any:
    return spark.sparkContext._jvm


# ---- the command line ----


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=k) for k in range((last - first).days + 1))


def _aware(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise argparse.ArgumentTypeError(f"{text!r} names no offset from UTC")
    return time


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _fields(text: str) -> dict[str, str]:
    given = json.loads(text) if text.startswith("{") else dict(part.split("=", 1) for part in text.split(","))
    if not isinstance(given, dict) or not given.keys() <= FIELDS.keys():
        raise argparse.ArgumentTypeError(f"must name some of {', '.join(FIELDS)}")
    fields = {**FIELDS, **given}
    for name, path in fields.items():
        if not isinstance(path, str) or not all(path.split(".")):
            raise argparse.ArgumentTypeError(f"{name}: {path!r} is no dotted path")
        if any(other.startswith(f"{path}.") for other in fields.values()):
            raise argparse.ArgumentTypeError(f"{name}: {path!r} holds other fields")
    return fields


if __name__ == "__main__":
    main()
