-- Ends a replay that cannot go on, with the reason.
WITH left_over AS (
    DELETE FROM outbox.replay_lane WHERE replay_id = %(id)s::uuid
)
UPDATE outbox.replay SET state = 'failed', error = %(error)s, ended_at = now()
WHERE id = %(id)s::uuid AND state = 'running'
RETURNING id
