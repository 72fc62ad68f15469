-- An event that cannot be fanned out waits for a person; the others go on.
UPDATE outbox.event_queue
SET due_at = 'infinity', error = %(error)s
WHERE due_at <= now() AND event_id = %(event_id)s
RETURNING event_id
