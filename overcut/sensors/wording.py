"""What made an incident, in words for people who have never heard of a score."""

from overcut.sensors.features import Feature
from overcut.sensors.incidents import BACKWARDS, SILENCES, STUCK_SENSOR, Cause

WORDS: dict[Feature, str] = {
    "jump": "jumped away from where it was ten minutes to an hour before",
    "plateau": "has gone on so far from where it was ten minutes to an hour before, as it never does",
    "level": "keeps away from its usual level",
    "volatility": "changes from one reading to the next by another amount than usual",
    "value": "is away from what it usually shows",
}
_STUCK = "shows one and the same value again and again, as it never did before"


def in_words(kind: str, cause: Cause) -> str:
    """What a cause's measure does in an incident of a kind, to follow on its name."""
    if kind == STUCK_SENSOR:
        return _STUCK
    return next((words for name, words in WORDS.items() if name == cause.feature), "is unusual")


def why(kind: str, cause: Cause) -> str:
    """What made an incident, as a sentence."""
    if kind == BACKWARDS:
        return "Readings come, but none was measured later than those before: the clock may run behind."
    if kind in SILENCES:
        return f"Nothing was heard for {cause.value:.0f} minutes; usually it is {cause.usual_high:.0f} at most."
    return f"The {cause.measure} {in_words(kind, cause)}."
