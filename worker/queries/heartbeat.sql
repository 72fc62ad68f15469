-- `known` says whether this life is on record: a standby that took over may not have heard of
-- it, and give its id to another.
WITH seen AS (
    UPDATE outbox.worker SET seen_at = now()
    WHERE id = %(owner)s AND host = %(host)s AND pid = %(pid)s AND started_at = %(started_at)s
    RETURNING id
)
SELECT max(version) AS version, EXISTS (SELECT FROM seen) AS known FROM outbox.schema_version
