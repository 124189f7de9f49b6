-- Which sensors were given a cutoff outside the mean plus and minus three standard deviations of their earlier ones?
SELECT sensor_id, trained_at, score_cutoff, lower_bound, upper_bound, earlier
FROM cutoff_drift
WHERE is_outside
ORDER BY trained_at DESC
