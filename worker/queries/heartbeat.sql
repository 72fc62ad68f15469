-- `known` says whether this life is on record: a standby that took over may not have heard of
-- it, and give its id to another. `workers` are those whose heartbeat is fresh, this one among
-- them, and `place` is its place in their row.
WITH seen AS (
    UPDATE outbox.worker SET seen_at = now()
    WHERE id = %(owner)s AND host = %(host)s AND pid = %(pid)s AND started_at = %(started_at)s
    RETURNING id
), other AS (
    SELECT w.id FROM outbox.worker w
    WHERE w.id <> %(owner)s AND w.stopped_at IS NULL
        AND w.seen_at > now() - make_interval(secs => %(silence)s)
)
SELECT max(version) AS version, EXISTS (SELECT FROM seen) AS known,
    (SELECT count(*) FILTER (WHERE id < %(owner)s) FROM other) AS place,
    (SELECT count(*) + 1 FROM other) AS workers
FROM outbox.schema_version
