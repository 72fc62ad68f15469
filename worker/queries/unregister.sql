UPDATE outbox.worker SET stopped_at = now(), seen_at = now()
WHERE id = %(owner)s
RETURNING id
