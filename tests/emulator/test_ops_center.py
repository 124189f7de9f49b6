"""OpsCenter on the embedded cloud, through the SDK; its rules in detail: tests/functional/test_ticket_sinks.py."""

import json

import pytest
from botocore.exceptions import ClientError

from tests.emulator.conftest import Cloud

pytestmark = pytest.mark.emulator


def test_an_ops_item_from_its_creation_to_its_end(cloud: Cloud) -> None:
    ssm = cloud.client("ssm")
    dedup = {"Value": json.dumps({"dedupString": "one"}), "Type": "SearchableString"}
    request = {
        "Source": "Overcut",
        "Title": "orders loaded no rows",
        "Description": "Nothing came.",
        "Severity": "3",
        "OperationalData": {"/aws/dedup": dedup, "mine": {"Value": "1", "Type": "String"}},
    }
    created = ssm.create_ops_item(**request)
    ops_item_id = created["OpsItemId"]
    assert created["OpsItemArn"] == f"arn:aws:ssm:us-east-1:000000000000:opsitem/{ops_item_id}"
    with pytest.raises(ssm.exceptions.OpsItemAlreadyExistsException) as existing:
        ssm.create_ops_item(**request)
    assert existing.value.response["OpsItemId"] == ops_item_id

    note = {"Value": "again", "Type": "String"}
    ssm.update_ops_item(
        OpsItemId=ops_item_id, OperationalData={"note": note}, OperationalDataToDelete=["mine"], Status="Resolved"
    )
    item = ssm.get_ops_item(OpsItemId=ops_item_id)["OpsItem"]
    assert item["OperationalData"] == {"/aws/dedup": dedup, "note": note}
    assert (item["Status"], item["Title"], item["Severity"]) == ("Resolved", "orders loaded no rows", "3")
    assert item["LastModifiedTime"] >= item["CreatedTime"]

    another = ssm.create_ops_item(**request)["OpsItemId"]
    wanted = json.dumps({"key": "/aws/dedup", "value": dedup["Value"]})
    found = ssm.describe_ops_items(
        OpsItemFilters=[
            {"Key": "OperationalData", "Values": [wanted], "Operator": "Equal"},
            {"Key": "Status", "Values": ["Open"], "Operator": "Equal"},
        ]
    )["OpsItemSummaries"]
    assert [one["OpsItemId"] for one in found] == [another]
    assert "Description" not in found[0], "a summary has none"


def test_requests_that_aws_would_refuse(cloud: Cloud) -> None:
    ssm = cloud.client("ssm")
    with pytest.raises(ClientError, match="ValidationException"):
        ssm.create_ops_item(Source="Overcut", Title="t" * 1025, Description="d")
    with pytest.raises(ssm.exceptions.OpsItemNotFoundException):
        ssm.update_ops_item(OpsItemId="oi-0123456789ab", Status="Open")


def test_the_rest_of_systems_manager_is_there_as_before(cloud: Cloud) -> None:
    ssm = cloud.client("ssm")
    ssm.put_parameter(Name="/overcut/test", Value="here", Type="String")
    assert ssm.get_parameter(Name="/overcut/test")["Parameter"]["Value"] == "here"
    with pytest.raises(ClientError, match="InvalidAction"):
        ssm.list_associations()
