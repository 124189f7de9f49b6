-- What did the last seven days' trainings decide, and why?
SELECT occurred_at, model_id, decision, reason, model_version, json_extract_scalar(details, '$.sensors') AS sensors
FROM model_events
WHERE occurred_at >= current_date - INTERVAL '7' DAY
ORDER BY occurred_at DESC
