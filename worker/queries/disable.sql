WITH disabled AS (
    UPDATE outbox.subscription s
    SET state = 'disabled', state_reason = %(reason)s, revision = revision + 1, changed_at = now()
    WHERE id = %(subscription_id)s::uuid AND state = 'active'
    RETURNING s.*
)
INSERT INTO outbox.subscription_change (subscription_id, revision, change, actor, command, after)
SELECT id, revision, 'disabled', 'worker ' || %(owner)s, 'outbox-worker', to_jsonb(disabled)
FROM disabled
RETURNING subscription_id
