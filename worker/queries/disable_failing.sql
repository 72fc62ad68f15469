-- Stops the active subscriptions that had nothing but failures for five days, at least
-- twenty of them: as `disable` does. Any worker may do it; what another one is just at
-- is left to it, and a success that comes in between wins.
WITH failing AS MATERIALIZED (
    SELECT h.subscription_id, format(
        'nothing but failures since %%s: %%s of them',
        to_char(h.failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD'), h.failures) AS reason
    FROM outbox.subscription_health h
    JOIN outbox.subscription s ON s.id = h.subscription_id AND s.state = 'active'
    WHERE h.failures >= 20 AND h.failing_since <= now() - interval '5 days'
    FOR UPDATE SKIP LOCKED
), disabled AS (
    UPDATE outbox.subscription s
    SET state = 'disabled', state_reason = f.reason, revision = revision + 1, changed_at = now()
    FROM failing f
    WHERE s.id = f.subscription_id
    RETURNING s.*
), told AS (
    INSERT INTO outbox.event (type, subject, source, data)
    SELECT 'subscription.disabled', 'subscription/' || id, 'outbox',
        json_build_object('subscription_id', id, 'tenant', tenant, 'reason', state_reason)
    FROM disabled
), changed AS (
    INSERT INTO outbox.subscription_change (subscription_id, revision, change, actor, command, after)
    SELECT id, revision, 'disabled', 'worker ' || %(owner)s, 'outbox-worker', to_jsonb(disabled)
    FROM disabled
)
SELECT id::text AS subscription_id, state_reason AS reason FROM disabled ORDER BY id
