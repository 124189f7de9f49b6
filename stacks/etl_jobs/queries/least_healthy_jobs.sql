-- Which jobs had most that was wrong in the last thirty days?
SELECT job_name, sum(runs) AS runs, sum(anomalous) AS anomalous, sum(failed) AS failed, sum(missed) AS missed
FROM job_health
WHERE dt >= current_date - INTERVAL '30' DAY
GROUP BY job_name
HAVING sum(anomalous) + sum(failed) + sum(missed) > 0
ORDER BY sum(anomalous) + sum(failed) + sum(missed) DESC, job_name
