-- The next lanes behind a cursor, each with the moment at which its first free delivery
-- falls due: a loose index scan, one probe a lane and not one a row. Lanes of stopped
-- subscriptions are passed over.
WITH RECURSIVE lane AS (
    (SELECT q.subscription_id FROM outbox.delivery_queue q
     WHERE q.subscription_id > %(after)s::uuid
     ORDER BY q.subscription_id LIMIT 1)
    UNION ALL
    SELECT n.subscription_id FROM lane l CROSS JOIN LATERAL (
        SELECT q.subscription_id FROM outbox.delivery_queue q
        WHERE q.subscription_id > l.subscription_id
        ORDER BY q.subscription_id LIMIT 1
    ) n
), slice AS (
    SELECT subscription_id FROM lane LIMIT %(limit)s
)
SELECT l.subscription_id::text, extract(epoch FROM h.due_at - now())::float8 AS due_in,
    coalesce(s.limited, false) AS limited
FROM slice l
LEFT JOIN outbox.subscription s ON s.id = l.subscription_id
LEFT JOIN LATERAL (
    SELECT q.due_at FROM outbox.delivery_queue q
    WHERE q.subscription_id = l.subscription_id AND s.state = 'active'
        AND (q.lease_until IS NULL OR q.lease_until <= now())
        AND q.due_at < 'infinity'
    ORDER BY q.due_at LIMIT 1
) h ON true
ORDER BY l.subscription_id
