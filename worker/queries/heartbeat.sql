WITH seen AS (
    UPDATE outbox.worker SET seen_at = now() WHERE id = %(owner)s
)
SELECT max(version) AS version FROM outbox.schema_version
