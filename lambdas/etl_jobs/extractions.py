"""What the extractions say of themselves."""

import json
from datetime import datetime
from typing import Any, Literal

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import EXTRACTIONS_PREFIX


def last_counts(data: Bucket, mode: Literal["historical", "recent"]) -> dict[str, Any] | None:
    """What the last extraction of a mode counted; None before the first.

    Two that ran at once may both have left theirs: the one that reached further counts.
    """
    lines = [line for key in data.keys(f"{EXTRACTIONS_PREFIX}{mode}/") for line in data.get(key).splitlines()]
    return max(
        map(json.loads, filter(None, lines)), key=lambda counts: datetime.fromisoformat(counts["until"]), default=None
    )
