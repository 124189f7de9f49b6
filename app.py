"""The CDK app: reads one stage, makes its stacks. `cdk deploy --context stage=dev`, or the path of a stage file."""

import sys

import aws_cdk as cdk

from overcut import OvercutError
from stacks.etl_jobs.stack import EtlJobsStack
from stacks.sensors.stack import SensorsStack
from stacks.stage import read_stage

app = cdk.App()
try:
    stage = read_stage(app.node.try_get_context("stage") or "dev")
    if stage.sensors:
        SensorsStack(app, f"Overcut-{stage.name}-sensors", stage=stage.with_sensors())
    if stage.etl_jobs:
        EtlJobsStack(app, f"Overcut-{stage.name}-etl-jobs", stage=stage.with_etl_jobs())
except OvercutError as error:
    sys.exit(str(error))
cdk.Tags.of(app).add("application", "overcut")
cdk.Tags.of(app).add("stage", stage.name)
app.synth()
