SELECT dt, job_name, count(*) AS runs,
  count_if(judgement = 'anomalous') AS anomalous,
  count_if(judgement = 'failed') AS failed,
  count_if(judgement = 'missed') AS missed,
  CAST(sum(records_processed) AS bigint) AS records_processed,
  max_by(deviations, abs(deviations)) AS farthest_off
FROM verdicts
GROUP BY dt, job_name
