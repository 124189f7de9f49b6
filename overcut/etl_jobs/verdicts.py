"""Verdicts: what predict_anomalies says about one run, and what open_tickets reads."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum

from overcut.formats import check_format


class Kind(StrEnum):
    """What a ticket may be about; each job has at most one open ticket of each."""

    UNUSUAL_RUN = "unusual_run"
    FAILED_RUN = "failed_run"
    MISSED_RUN = "missed_run"


class Judgement(StrEnum):
    """What is said about a run.

    `LEARNING`: nothing is wrong with it as far as a short history tells. `MISSED`: it never came.
    """

    HEALTHY = "healthy"
    LEARNING = "learning"
    ANOMALOUS = "anomalous"
    FAILED = "failed"
    MISSED = "missed"


_KINDS = {
    Judgement.ANOMALOUS: Kind.UNUSUAL_RUN,
    Judgement.FAILED: Kind.FAILED_RUN,
    Judgement.MISSED: Kind.MISSED_RUN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One run beside what is usual for its job. Figures that there are none of are None.

    Attributes:
        run_id: for a run that never came, made from the time at which it was expected.
        started_at: or expected, UTC.
        recorded_at: when the run's last state was recorded, UTC; of a run that never came, when that was clear.
        is_learning: the job's history is short: it was judged by a rough guess, also where it is anomalous.
        anomaly_score, score_cutoff: higher is more anomalous; anomalous above the cutoff.
        feature: the one of `overcut.etl_jobs.features.FEATURES` that is farthest off; empty where none was computed.
        deviations: how far it is off, in the job's own standard deviations, with its sign.
        time_zone: the job's own.
        schedule: the job's own, as its orchestrator gives it; may be empty.
    """

    job_name: str
    run_id: str
    judgement: Judgement
    started_at: datetime
    recorded_at: datetime
    model_version: str
    is_learning: bool = False
    records_processed: int | None = None
    usual_records: float | None = None
    run_time_seconds: float | None = None
    usual_seconds: float | None = None
    anomaly_score: float | None = None
    score_cutoff: float | None = None
    feature: str = ""
    deviations: float | None = None
    time_zone: str = "UTC"
    schedule: str = ""

    @property
    def kind(self) -> Kind | None:
        """What a ticket about it would be; None when nothing is wrong."""
        return _KINDS.get(self.judgement)

    def to_json(self) -> str:
        """One line of JSON; times in ISO 8601, UTC."""
        fields = asdict(self)
        for name in ("started_at", "recorded_at"):
            fields[name] = fields[name].astimezone(UTC).isoformat().replace("+00:00", "Z")
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Verdict":
        fields = json.loads(line)
        check_format("verdict", fields)
        for name in ("started_at", "recorded_at"):
            fields[name] = datetime.fromisoformat(fields[name])
        fields["judgement"] = Judgement(fields["judgement"])
        return cls(**fields)
