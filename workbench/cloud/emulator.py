"""ministack and what it lacks, in one process. Import it only once the emulator's environment is set.

Each addition is a module with a `register` that enters itself in ministack's tables.
"""

import sys
from pathlib import Path

from ministack import app

from workbench.cloud import function_metrics, sagemaker, text_messages


def serve(state: Path) -> None:
    """Serve in the foreground until a signal ends it."""
    sagemaker.register(state / "training-jobs")
    text_messages.register()
    function_metrics.register()
    sys.argv = ["ministack"]  # its own command line is not ours
    app.main()
