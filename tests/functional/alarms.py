"""Which alarms of the template what a function counted would trip."""

import json
from collections import defaultdict
from typing import Any

from tests.conftest import logical_name, resources_of


def tripped(template: dict[str, Any], log: str) -> set[str]:
    """The alarms, by logical name, that trip on the metrics a log holds in CloudWatch's embedded format, taken as what
    one period has."""
    sums: defaultdict[tuple[str, str, frozenset[tuple[str, str]]], float] = defaultdict(float)
    for record in (json.loads(line) for line in log.splitlines() if '"_aws"' in line):
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for dimensions in directive["Dimensions"]:
                about = frozenset((name, record[name]) for name in dimensions)
                for metric in directive["Metrics"]:
                    sums[directive["Namespace"], metric["Name"], about] += sum(record[metric["Name"]])
    found = set()
    for name, alarm in resources_of(template, "AWS::CloudWatch::Alarm").items():
        if alarm["Namespace"] == "Overcut":
            about = frozenset((one["Name"], one["Value"]) for one in alarm["Dimensions"])
            assert (alarm["ComparisonOperator"], alarm["Statistic"]) == ("GreaterThanThreshold", "Sum")
            if sums.get((alarm["Namespace"], alarm["MetricName"], about), 0) > alarm["Threshold"]:
                found.add(logical_name(name).removeprefix("Operations"))
    return found
