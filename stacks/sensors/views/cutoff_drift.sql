WITH compared AS (
  SELECT sensor_id, trained_at, model_version, score_cutoff,
    count(*) OVER earlier_ones AS earlier,
    avg(score_cutoff) OVER earlier_ones AS earlier_mean,
    stddev_pop(score_cutoff) OVER earlier_ones AS earlier_sd
  FROM cutoffs
  WHERE NOT is_retired
  WINDOW earlier_ones AS (PARTITION BY sensor_id ORDER BY trained_at ROWS BETWEEN 14 PRECEDING AND 1 PRECEDING)
)
SELECT sensor_id, trained_at, model_version, score_cutoff, earlier, earlier_mean, earlier_sd,
  earlier_mean - 3 * earlier_sd AS lower_bound,
  earlier_mean + 3 * earlier_sd AS upper_bound,
  earlier >= 3 AND abs(score_cutoff - earlier_mean) > greatest(3 * earlier_sd, 0.25) AS is_outside
FROM compared
