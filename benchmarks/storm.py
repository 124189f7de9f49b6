"""A storm, on the embedded cloud: `python -m benchmarks.storm [SENSORS SITES]`.

The deployed stage, with every sensor of every site twelve degrees too warm from the same minute on, in real time. Told
are the first text of each site, from the reading that completed the first run there, and the last text of all, from the
last reading.
"""

import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.event_to_text import (
    BEGINS,
    HISTORY,
    MINUTE,
    deployed,
    name_of,
    sent_at,
    started,
    value,
    wait,
)
from benchmarks.measured import Row, in_a_process, write
from lambdas.sensors.stores import Sensor
from overcut.sensors.auditing import percentile
from overcut.sensors.incidents import Incident, TextKind, TextState
from overcut.sensors.readings import Reading
from workbench.demonstration.sensors import received_texts

SENSORS, SITES = "5000", "50"
RUN = 5


def main(arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as state:
        row: Row = in_a_process(["benchmarks.storm", "--state", state, *(arguments or (SENSORS, SITES))])
    write("storm", {"Seconds:": [row]}, ["ministack"])


def fleet(sensors: int) -> list[Reading]:
    """An hour in order, then one run of all."""
    return [
        Reading(
            name_of(k),
            BEGINS + minute * MINUTE + timedelta(seconds=60 * k // sensors),
            {"temperature": value(k, minute) + 12 * (minute >= 0)},
        )
        for k in range(sensors)
        for minute in range(-HISTORY, RUN)
    ]


def measure(state: Path, sensors: int, sites: int) -> Row:
    readings = fleet(sensors)
    with deployed(state, readings) as (house, system):
        measures = {"temperature": "C"}
        # neighbours are of different sites, so that every site is struck in the same second
        names = [(name_of(k), f"Plant {k % sites}") for k in range(sensors)]
        system.sensors.put((Sensor(name, "device", measures, name, "Acme", site) for name, site in names), 4)
        face = started(house, system, readings, sensors, 1.0)
        time.sleep((RUN + 1) * 60)
        wait(lambda: _texted(system.all_incidents()), sensors, patience=600, every=15)
        incidents = system.all_incidents()
        texts = {text["message_id"]: datetime.fromisoformat(text["at"]) for text in received_texts(house.url)}

    opened: defaultdict[str, list[datetime]] = defaultdict(list)
    told: defaultdict[str, list[datetime]] = defaultdict(list)
    for incident in incidents:
        opened[incident.equipment.place].append(sent_at(face, incident.opened_at))
        told[incident.equipment.place] += [
            texts[one.message_id] for one in incident.texts.values() if one.kind is TextKind.ALERT
        ]
    first = [(min(told[place]) - min(opened[place])) / timedelta(seconds=1) for place in opened]
    last_reading = sent_at(face, max(one.measured_at for one in readings))
    alerts = Counter(one.message_id for it in incidents for one in it.texts.values() if one.kind is TextKind.ALERT)
    return {
        "sensors": sensors,
        "sites": sites,
        "incidents": len(incidents),
        "alerts": len(alerts),
        "most in one": max(alerts.values()),
        "first text of a site, median": round(percentile(first, 0.5), 1),
        "slowest": round(max(first), 1),
        "last reading to last text": round((max(map(max, told.values())) - last_reading) / timedelta(seconds=1), 1),
    }


def _texted(incidents: Sequence[Incident]) -> int:
    """Of how many an alert has left."""
    return sum(
        any(one.kind is TextKind.ALERT and one.state is TextState.SENT for one in it.texts.values()) for it in incidents
    )


if __name__ == "__main__":
    if "--state" in sys.argv:
        sys.stdout.write("\n" + json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(sys.argv[1:])
