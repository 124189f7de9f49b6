-- Which runs of the last seven days were unusual, failed, or never came?
SELECT started_at, job_name, run_id, judgement, records_processed, usual_records, run_time_seconds, usual_seconds,
  feature, deviations
FROM verdicts
WHERE dt >= current_date - INTERVAL '7' DAY AND judgement NOT IN ('healthy', 'learning')
ORDER BY started_at DESC
