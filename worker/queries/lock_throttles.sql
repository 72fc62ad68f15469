-- Takes the limits of lanes in hand until the transaction ends. Those that another worker
-- has in hand are left out: they are asked again in a moment.
SELECT t.subscription_id::text
FROM outbox.throttle t
WHERE t.subscription_id = ANY (%(lanes)s::uuid[])
ORDER BY t.subscription_id
FOR UPDATE SKIP LOCKED
