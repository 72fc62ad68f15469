-- How full lanes are, looked at no further than to the number that fills them: what is open,
-- what is due and waits to be claimed, and since when the first of that waits.
SELECT s.id::text AS subscription_id, s.state = 'active' AS is_active, s.limited,
    (SELECT count(*) FROM (
        SELECT FROM outbox.delivery_queue q WHERE q.subscription_id = s.id LIMIT %(open)s
    ) o) AS open,
    w.waiting, coalesce(extract(epoch FROM now() - w.first), 0)::float8 AS seconds
FROM unnest(%(lanes)s::uuid[]) AS l (id)
JOIN outbox.subscription s ON s.id = l.id AND s.state <> 'removed'
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, min(q.due_at) AS first
    FROM (
        SELECT q.due_at FROM outbox.delivery_queue q
        WHERE q.subscription_id = s.id AND q.due_at <= now()
            AND (q.lease_until IS NULL OR q.lease_until <= now())
        ORDER BY q.due_at LIMIT %(waiting)s
    ) q
) w
