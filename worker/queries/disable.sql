-- Stops an active subscription, with the change as a fact, and tells the operator of it.
WITH disabled AS (
    UPDATE outbox.subscription s
    SET state = 'disabled', state_reason = %(reason)s, revision = revision + 1, changed_at = now()
    WHERE id = %(subscription_id)s::uuid AND state = 'active'
    RETURNING s.*
), told AS (
    INSERT INTO outbox.event (type, subject, source, data)
    SELECT 'subscription.disabled', 'subscription/' || id, 'outbox',
        json_build_object('subscription_id', id, 'tenant', tenant, 'reason', state_reason)
    FROM disabled WHERE %(tell)s
)
INSERT INTO outbox.subscription_change (subscription_id, revision, change, actor, command, after)
SELECT id, revision, 'disabled', 'worker ' || %(owner)s, 'outbox-worker', to_jsonb(disabled)
FROM disabled
RETURNING subscription_id
