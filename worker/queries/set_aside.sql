-- An event that cannot be fanned out waits for a person; the others go on.
WITH head AS (
    SELECT q.due_at, q.event_id FROM outbox.event_queue q
    WHERE q.due_at <= now() AND q.event_id = %(event_id)s
    ORDER BY q.due_at, q.event_id LIMIT 1
)
UPDATE outbox.event_queue q
SET due_at = 'infinity', error = %(error)s
FROM head h
WHERE q.due_at = ANY (ARRAY[h.due_at]) AND q.event_id = ANY (ARRAY[h.event_id])
RETURNING q.event_id
