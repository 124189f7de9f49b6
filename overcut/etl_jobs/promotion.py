"""Promotion: whether a new model may judge runs, or the one before it goes on, and why."""

from dataclasses import dataclass
from datetime import timedelta

from overcut.etl_jobs.model import Model

# a job that runs at the end of the month has a run in any five weeks; one without is over
STILL_RUNNING = timedelta(days=35)
# jobs come and go one at a time: one in five that are lost at once is a lake that was read in part
MIN_KNOWN_SHARE = 0.8
# on 60 simulated jobs the cutoff moves by a fifth from week to week, faults in one run of eight included; twice as high
# hides, twice as low shows, what nobody asked for
MOST_CUTOFF_CHANGE = 2.0
# what differs from a model this old has differed for a week: that is how things are now
MOST_HELD = timedelta(days=7)
LAST_WEEK = timedelta(days=7)
# of the runs, the budget grants one in 400 that is usual. In the simulated months with the most faults one in eight is
# one; when a third of a whole week is "unusual", the model is wrong about what is usual. A bad week holds nothing up:
# the model before it finds the same faults
MOST_ANOMALOUS_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a model; `reason` is for people."""

    promoted: bool
    reason: str


def decide(model: Model, previous: Model | None, *, judged: int, anomalous: int) -> Decision:
    """Promote `model`, or hold it so that `previous`, the promoted one before it, goes on.

    For being unlike `previous` it is held for a week at most.

    Args:
        judged, anomalous: the runs of the `LAST_WEEK` before the training, and those that `model` would ticket.
    """
    learned = model.jobs.learned
    if previous is None:
        if learned:
            return Decision(True, f"the first model; it knows {len(learned)} jobs")
        return Decision(False, "no job has enough runs to learn from yet")
    running = previous.jobs.learned & previous.jobs.started_since(model.trained_until - STILL_RUNNING)
    kept = len(running & learned)
    lasting = model.trained_until - previous.trained_until > MOST_HELD
    if not lasting and kept < MIN_KNOWN_SHARE * len(running):
        return Decision(
            False,
            f"it knows only {kept} of the {len(running)} running jobs that model {previous.model_version} knew: "
            "see whether the extraction read the whole lake",
        )
    change = model.score_cutoff / previous.score_cutoff
    if not lasting and not 1 / MOST_CUTOFF_CHANGE <= change <= MOST_CUTOFF_CHANGE:
        return Decision(
            False,
            f"its cutoff is {model.score_cutoff:.2f}, that of model {previous.model_version} "
            f"{previous.score_cutoff:.2f}: more than a factor of {MOST_CUTOFF_CHANGE:g} apart",
        )
    if anomalous > MOST_ANOMALOUS_SHARE * judged:
        return Decision(
            False,
            f"it would call {anomalous} of the last week's {judged} runs unusual, "
            f"more than {MOST_ANOMALOUS_SHARE:.0%}: see whether the history is right",
        )
    return Decision(
        True,
        f"it knows {kept} of the {len(running)} running jobs that model {previous.model_version} knew "
        f"and calls {anomalous} of the last week's {judged} runs unusual",
    )
