WITH numbered AS (
  SELECT *, row_number() OVER (PARTITION BY job_name, run_id ORDER BY recorded_at DESC, model_version DESC) AS place
  FROM predictions
)
SELECT job_name, run_id, judgement, started_at, recorded_at, records_processed, usual_records, run_time_seconds,
  usual_seconds, feature, deviations, model_version, dt
FROM numbered
WHERE place = 1
