"""What the extractions say of themselves."""

import json
from typing import Any, Literal

from lambdas.runtime.objects import Bucket
from overcut.etl_jobs.layout import EXTRACTIONS_PREFIX


def last_counts(data: Bucket, mode: Literal["historical", "recent"]) -> dict[str, Any] | None:
    """What the last extraction of a mode counted; None before the first."""
    parts = b"".join(data.get(key) for key in data.keys(f"{EXTRACTIONS_PREFIX}{mode}/"))
    return json.loads(parts) if parts.strip() else None
