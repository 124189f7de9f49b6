SELECT sensor_id, measure, date_trunc('hour', measured_at) AS hour, count(*) AS readings,
  min(value) AS least, avg(value) AS mean, max(value) AS greatest, dt
FROM readings
GROUP BY sensor_id, measure, date_trunc('hour', measured_at), dt
