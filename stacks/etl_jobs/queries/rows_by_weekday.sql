-- How many rows does each job usually load, by day of the week (0 is Monday)?
SELECT job_name, day_of_week, count(*) AS runs, approx_percentile(records_processed, 0.5) AS median_rows,
  min(records_processed) AS fewest, max(records_processed) AS most
FROM job_runs
WHERE status = 'SUCCEEDED' AND dt >= current_date - INTERVAL '90' DAY
GROUP BY job_name, day_of_week
ORDER BY job_name, day_of_week
