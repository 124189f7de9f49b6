"""The ETL pipeline, as data flows."""

from aws_cdk import CfnOutput, Stack
from constructs import Construct

from stacks.constructs.operations import Operations
from stacks.etl_jobs.catalog import catalog_of
from stacks.etl_jobs.dashboard import add_dashboard
from stacks.etl_jobs.extraction import Extraction
from stacks.etl_jobs.prediction import Prediction
from stacks.etl_jobs.storage import Storage
from stacks.etl_jobs.training import Training
from stacks.stage import EtlJobsStage


class EtlJobsStack(Stack):
    """Data lake -> extraction -> model, every day; data lake -> extraction -> predictions -> tickets, every hour."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: EtlJobsStage) -> None:
        super().__init__(
            scope,
            construct_id,
            description=f"Overcut, ETL pipeline, stage {stage.name}",
            env={"region": stage.region},
        )
        operations = Operations(self, "Operations", stage=stage)
        storage = Storage(self, "Storage", stage=stage)
        extraction = Extraction(self, "Extraction", stage=stage, storage=storage)
        training = Training(
            self, "Training", stage=stage, storage=storage, extraction_=extraction, operations=operations
        )
        catalog = catalog_of(self, stage, storage)
        prediction = Prediction(
            self,
            "Prediction",
            stage=stage,
            storage=storage,
            catalog=catalog,
            extraction_=extraction,
            operations=operations,
        )
        add_dashboard(self, stage=stage, training=training, prediction=prediction, operations=operations)
        for name, value in {
            "Lake": storage.lake_url,
            "DataBucket": storage.bucket.bucket_name,
            "TicketsTable": storage.tickets.table_name,
            "OperationsTopic": operations.topic.topic_arn,
            "SparkApplication": extraction.application.attr_application_id,
            "PredictAnomalies": prediction.predict_anomalies.function_name,
            "OpenTickets": prediction.open_tickets.function_name,
            "RegisterPartitions": prediction.register_partitions.function_name,
            "Database": catalog.database_name,
            "WorkGroup": catalog.work_group.name,
            "TrainingWorkflow": training.train.state_machine_arn,
            "PredictionWorkflow": prediction.predict.state_machine_arn,
        }.items():
            CfnOutput(self, name, value=value)
