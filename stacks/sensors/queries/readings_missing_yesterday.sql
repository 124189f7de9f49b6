-- Which sensors measured less often yesterday than the day before?
WITH counted AS (
  SELECT sensor_id, dt, count(DISTINCT measured_at) AS readings
  FROM readings
  WHERE dt >= current_date - INTERVAL '2' DAY AND dt < current_date
  GROUP BY sensor_id, dt
)
SELECT before.sensor_id, before.readings AS readings_before, coalesce(after.readings, 0) AS readings_yesterday
FROM counted AS before
LEFT JOIN counted AS after ON after.sensor_id = before.sensor_id AND after.dt = current_date - INTERVAL '1' DAY
WHERE before.dt = current_date - INTERVAL '2' DAY AND coalesce(after.readings, 0) < before.readings
ORDER BY readings_yesterday, before.sensor_id
