-- What was told in the last seven days, and how long did the first text take?
SELECT opened_at, name, site, kind, state, measure, value, usual_low, usual_high, label,
  date_diff('minute', first_anomalous_at, first_text_at) AS minutes_to_first_text
FROM incidents
WHERE opened_at >= current_date - INTERVAL '7' DAY
ORDER BY opened_at DESC
