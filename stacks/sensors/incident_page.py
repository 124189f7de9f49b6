"""The page of an incident, and where its links begin."""

import json

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.constructs.function import PipelineFunction
from stacks.sensors.storage import Storage
from stacks.stage import SensorsStage


class IncidentPage(Construct):
    """show_incident behind a URL of its own: who has a link needs no account.

    Attributes:
        url: the function's own.
        link_prefix: a link is this and a token.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: SensorsStage, storage: Storage) -> None:
        super().__init__(scope, construct_id)
        page = stage.sensors.page
        self.show_incident = PipelineFunction(
            self,
            "ShowIncident",
            stage=stage,
            pipeline="sensors",
            function="show_incident",
            description="Shows an incident to who has its link, and takes the answer",
            timeout=Duration.seconds(30),
            environment={
                "INCIDENTS_TABLE": storage.incidents.table_name,
                "READINGS_TABLE": storage.readings.table_name,
                "SENSORS_TABLE": storage.sensors.table_name,
                "CUTOFFS_TABLE": storage.cutoffs.table_name,
                "CLOCK": stage.clock,
                "SNOOZE_MINUTES": json.dumps(page.snooze_minutes),
            },
        )
        storage.incidents.allow(self.show_incident, "BatchGetItem", "GetItem", "Query", "UpdateItem")
        storage.readings.allow(self.show_incident, "Query")
        storage.sensors.allow(self.show_incident, "GetItem")
        storage.cutoffs.allow(self.show_incident, "GetItem")
        # with the two permissions that a call without an account takes since October 2025:
        # https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
        self.url = self.show_incident.add_function_url(auth_type=lambda_.FunctionUrlAuthType.NONE).url
        self.link_prefix = f"https://{page.domain}/" if page.domain else self.url
