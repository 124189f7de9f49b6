-- Which sensors told most in the last thirty days, and how often was it a false alarm?
SELECT sensor_id, max(name) AS name, max(site) AS site, count(*) AS incidents,
  count_if(label = 'false_alarm') AS false_alarms, count_if(label = 'fault') AS faults,
  sum(anomalous_minutes) AS anomalous_minutes
FROM incidents
WHERE opened_at >= current_date - INTERVAL '30' DAY
GROUP BY sensor_id
ORDER BY incidents DESC, sensor_id
LIMIT 20
