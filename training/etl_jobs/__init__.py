"""What Spark and SageMaker run for the ETL pipeline."""
