-- The days that are past their retention and not held.
SELECT d.day, now() AS looked_at
FROM outbox.retention r CROSS JOIN LATERAL outbox.days_before(now() - r.keep) d
WHERE d.held IS NULL
ORDER BY d.day
