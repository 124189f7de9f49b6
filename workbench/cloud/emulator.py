"""ministack and what it lacks, in one process. Import it only once the emulator's environment is set.

Each addition is a module with a `register` that enters itself in ministack's tables.
"""

import sys
from pathlib import Path

from ministack import app

from workbench.cloud import (
    athena,
    emr_serverless,
    function_metrics,
    mishaps,
    ops_center,
    policies,
    queries,
    sagemaker,
    state_inputs,
    text_messages,
)


def serve(state: Path) -> None:
    """Serve in the foreground until a signal ends it."""
    policies.register(state / "decisions.jsonl")
    athena.register()
    sagemaker.register(state / "training-jobs")
    emr_serverless.register(state / "job-runs")
    text_messages.register()
    ops_center.register()
    state_inputs.register()
    function_metrics.register()
    queries.register()
    mishaps.register(state)
    sys.argv = ["ministack"]  # its own command line is not ours
    app.main()
