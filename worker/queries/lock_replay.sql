-- Takes a running replay in hand until the transaction ends; nothing if another worker has
-- it. `at` is this moment, `seconds` how long its bucket has been filling; `is_new` says that
-- nobody had it in hand before.
SELECT r.mode, r.subscription_id::text, r.type, r.tenant, r.subject, r.rate, r.created_at,
    r.after_event::text, r.after_subscription::text, r.last_event::text, r.tokens,
    m.at, extract(epoch FROM m.at - r.filled_at)::float8 AS seconds,
    r.moved_at = r.created_at AS is_new
FROM outbox.replay r CROSS JOIN (SELECT clock_timestamp() AS at OFFSET 0) m
WHERE r.id = %(id)s::uuid AND r.state = 'running'
FOR UPDATE OF r SKIP LOCKED
