-- From version 2 to 3: replays, the catalogue of event types, captures, and what operators
-- look for in the log of attempts. schema.sql says what each column is for.

ALTER TABLE outbox.delivery ADD COLUMN replay_id uuid;
CREATE INDEX delivery_replay ON outbox.delivery (replay_id, id) WHERE replay_id IS NOT NULL;

ALTER TABLE outbox.attempt ADD COLUMN response_headers json;
CREATE INDEX attempt_recorded ON outbox.attempt USING brin (recorded_at)
    WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX attempt_dead ON outbox.attempt (delivery_id) WHERE outcome = 'dead';


-- Past events again ------------------------------------------------------------------

-- A person asks for past events again. A job of the fleet: whichever worker has a moment
-- makes the next few deliveries and moves the cursor on, in one transaction. So it goes on
-- after a crash where it was, and no event goes twice to a subscription by one replay.
CREATE TABLE outbox.replay (
    id                 uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    mode               text        NOT NULL CONSTRAINT replay_mode_known CHECK (
                           mode IN ('all', 'missing', 'dead')),     -- every match; those without a delivery; those whose deliveries are dead
    -- Which events, for which subscriptions: what is NULL does not narrow.
    event_id           uuid,
    subscription_id    uuid,
    type               text,                                        -- an event type or a pattern
    tenant             text,
    subject            text,
    since              timestamptz,                                 -- events stored from then on
    until              timestamptz,                                 -- and before then
    rate               double precision CONSTRAINT replay_rate_range CHECK (
                           rate BETWEEN 0.001 AND 100000),          -- deliveries a second; NULL: as live traffic leaves room
    counted            bigint      NOT NULL,                        -- deliveries it was expected to make, when it was asked for
    made               bigint      NOT NULL DEFAULT 0,              -- deliveries it has made
    -- The cursor: behind this pair it goes on, up to the last event that was there at the start.
    after_event        uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    after_subscription uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    last_event         uuid        NOT NULL,
    tokens             double precision NOT NULL DEFAULT 0,         -- deliveries that the rate allowed at filled_at
    filled_at          timestamptz NOT NULL DEFAULT now(),
    state              text        NOT NULL DEFAULT 'running' CONSTRAINT replay_state_known CHECK (
                           state IN ('running', 'done', 'cancelled', 'failed')),
    error              text,                                        -- why it failed
    actor              text        NOT NULL,                        -- the person who asked
    command            text        NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    moved_at           timestamptz NOT NULL DEFAULT now(),          -- when the cursor last moved
    ended_at           timestamptz,
    CONSTRAINT replay_ended CHECK ((state = 'running') = (ended_at IS NULL))
) WITH (fillfactor = 50);

CREATE INDEX replay_running ON outbox.replay (id) WHERE state = 'running';

-- Makes deliveries of past events for those who ask for them again: the n-th event to the
-- n-th subscription, due now. Of an ordered subscription they take their place among the
-- others of their subject. Returns how many it made: a removed subscription gets none.
CREATE FUNCTION outbox.deliver_again(event_ids uuid[], subscription_ids uuid[], replay uuid)
    RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made     integer;
    streams  uuid[];
    subjects text[];
BEGIN
    -- As they are when this ends: none is removed or ordered otherwise in between.
    PERFORM FROM outbox.subscription s WHERE s.id = ANY (subscription_ids) ORDER BY s.id FOR SHARE;

    WITH pair AS MATERIALIZED (
        SELECT outbox.uuid7() AS delivery_id, p.*
        FROM (
            SELECT a.event_id, a.subscription_id,
                CASE WHEN s.ordered IS NOT NULL THEN e.subject END AS subject
            FROM unnest(event_ids, subscription_ids) WITH ORDINALITY AS a (event_id, subscription_id, n)
            JOIN outbox.subscription s ON s.id = a.subscription_id AND s.state <> 'removed'
            CROSS JOIN LATERAL (
                SELECT e.subject FROM outbox.event e WHERE e.id = a.event_id LIMIT 1
            ) e
            ORDER BY a.n
        ) p
    ), delivered AS (
        INSERT INTO outbox.delivery (id, event_id, subscription_id, replay_id)
        SELECT delivery_id, event_id, subscription_id, replay FROM pair
    ), queued AS (
        INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, subject, due_at)
        SELECT delivery_id, subscription_id, event_id, subject,
            CASE WHEN subject IS NULL THEN now() ELSE 'infinity' END
        FROM pair
    )
    SELECT count(*), array_agg(subscription_id) FILTER (WHERE subject IS NOT NULL),
        array_agg(subject) FILTER (WHERE subject IS NOT NULL)
    INTO made, streams, subjects
    FROM pair;
    IF streams IS NOT NULL THEN
        PERFORM outbox.promote(streams, subjects);
    END IF;
    RETURN made;
END
$$;


-- What may happen --------------------------------------------------------------------

-- The catalogue of event types, for people who subscribe and for hosts that want their
-- data checked. An event of a type that is not in it is an event all the same.
CREATE TABLE outbox.event_type (
    type        text        PRIMARY KEY CONSTRAINT event_type_catalogue_grammar CHECK (
                    length(type) <= 128 AND type ~ '^[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*$'),
    description text,
    schema      json,                                               -- JSON Schema of data; NULL: anything goes
    example     json,                                               -- data that the schema allows
    deprecated  boolean     NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);


-- Names of subscriptions --------------------------------------------------------------

ALTER TABLE outbox.subscription ADD COLUMN name text CONSTRAINT subscription_name_grammar CHECK (
    length(name) <= 128 AND name ~ '^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$');
CREATE UNIQUE INDEX subscription_name ON outbox.subscription (name) WHERE state <> 'removed';


-- Limits that change ------------------------------------------------------------------

-- Lets the next delivery of each given subject go, unless one of it is on its way or the
-- subject is blocked. Under the lock of the subscription's limits, and in statements of
-- their own after it, so that whoever comes next sees what was decided here. That lock is
-- the last one that anybody waits for: a delivery that another transaction is just at is
-- left to that one.
CREATE OR REPLACE FUNCTION outbox.promote(subscription_ids uuid[], subjects text[]) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    promoted integer;
BEGIN
    PERFORM FROM outbox.throttle t
    WHERE t.subscription_id = ANY (subscription_ids)
    ORDER BY t.subscription_id
    FOR UPDATE;

    UPDATE outbox.delivery_queue q
    SET due_at = now() + make_interval(secs => coalesce(s.schedule[1], 0))
    FROM (SELECT DISTINCT u.id, u.subject FROM unnest(subscription_ids, subjects) AS u (id, subject)) k
    JOIN outbox.subscription s ON s.id = k.id
    CROSS JOIN LATERAL (
        SELECT n.delivery_id FROM outbox.delivery_queue n
        WHERE n.subscription_id = k.id AND n.subject = k.subject AND n.subject IS NOT NULL
        ORDER BY n.event_id LIMIT 1
    ) next
    CROSS JOIN LATERAL (
        SELECT n.delivery_id FROM outbox.delivery_queue n
        WHERE n.delivery_id = next.delivery_id
        FOR UPDATE SKIP LOCKED
    ) free
    WHERE q.delivery_id = free.delivery_id
        AND NOT EXISTS (
            SELECT FROM outbox.delivery_queue h
            WHERE h.subscription_id = k.id AND h.subject = k.subject
                AND h.subject IS NOT NULL AND h.due_at < 'infinity')
        AND NOT EXISTS (
            SELECT FROM outbox.blocked_subject b
            WHERE b.subscription_id = k.id AND b.subject = k.subject);
    GET DIAGNOSTICS promoted = ROW_COUNT;
    RETURN promoted;
END
$$;

-- Makes what is open fit the limits of a subscription after they were changed, in the same
-- transaction, which holds the lock of its row. `was_limited` and `was_ordered` are what it
-- had before. What is in flight counts for the limits.
--
-- When order begins, each open delivery takes its place in its subject: one that is in
-- flight goes first; others of its subject that are in flight as well end as they began,
-- outside of the order. When order ends, all are free to go. In two passes: most of it
-- first; then, while no fan-out is under way, what came meanwhile and what is in flight. So
-- neither the fan-out nor those who record wait for long. What another transaction is just
-- at is left to that one: nobody waits in a circle.
CREATE FUNCTION outbox.follow_limits(subscription uuid, was_limited boolean, was_ordered text)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_limited boolean;
    is_ordered text;
    subjects   text[];
BEGIN
    SELECT s.limited, s.ordered INTO is_limited, is_ordered
    FROM outbox.subscription s WHERE s.id = subscription;

    FOR pass IN 1..2 LOOP
        EXIT WHEN (was_ordered IS NULL) = (is_ordered IS NULL);
        IF pass = 2 THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('outbox.fan_out', 0));
        END IF;
        IF is_ordered IS NULL THEN
            WITH mine AS MATERIALIZED (
                SELECT q.delivery_id FROM outbox.delivery_queue q
                WHERE q.subscription_id = subscription AND q.subject IS NOT NULL
                    AND (q.lease_owner IS NULL OR pass = 2)
                FOR UPDATE SKIP LOCKED
            )
            UPDATE outbox.delivery_queue q
            SET subject = NULL, due_at = CASE q.due_at WHEN 'infinity' THEN now() ELSE q.due_at END
            FROM mine m WHERE q.delivery_id = m.delivery_id;
        ELSE
            WITH fresh AS (
                SELECT q.delivery_id, e.subject, NOT EXISTS (
                        SELECT FROM outbox.delivery_queue h
                        WHERE h.subscription_id = q.subscription_id AND h.subject = e.subject
                            AND h.due_at < 'infinity')
                    AND row_number() OVER (
                        PARTITION BY e.subject ORDER BY q.lease_owner IS NULL, q.event_id) = 1 AS first
                FROM outbox.delivery_queue q
                CROSS JOIN LATERAL (
                    SELECT e.subject FROM outbox.event e WHERE e.id = q.event_id LIMIT 1
                ) e
                WHERE q.subscription_id = subscription AND q.subject IS NULL AND e.subject IS NOT NULL
            ), mine AS MATERIALIZED (
                SELECT f.* FROM fresh f JOIN outbox.delivery_queue q ON q.delivery_id = f.delivery_id
                WHERE q.subject IS NULL AND (q.lease_owner IS NULL OR pass = 2 AND f.first)
                FOR UPDATE OF q SKIP LOCKED
            )
            UPDATE outbox.delivery_queue q
            SET subject = m.subject, due_at = CASE WHEN m.first THEN q.due_at ELSE 'infinity' END
            FROM mine m WHERE q.delivery_id = m.delivery_id;
        END IF;
    END LOOP;

    IF is_limited THEN
        INSERT INTO outbox.throttle (subscription_id) VALUES (subscription) ON CONFLICT DO NOTHING;
        PERFORM FROM outbox.throttle t WHERE t.subscription_id = subscription FOR UPDATE;
    ELSE
        DELETE FROM outbox.throttle t WHERE t.subscription_id = subscription;
    END IF;
    IF is_limited AND (NOT was_limited OR is_ordered IS NOT NULL AND was_ordered IS NULL) THEN
        INSERT INTO outbox.limited_claim (delivery_id, subscription_id, subject, attempt, lease_until)
        SELECT q.delivery_id, q.subscription_id, q.subject, q.attempt, q.lease_until
        FROM outbox.delivery_queue q
        WHERE q.subscription_id = subscription AND q.lease_until > now()
        ON CONFLICT (delivery_id) DO UPDATE SET subject = excluded.subject;
    END IF;
    IF is_ordered IS DISTINCT FROM 'stop' THEN
        DELETE FROM outbox.blocked_subject b WHERE b.subscription_id = subscription;
    END IF;
    IF is_ordered IS DISTINCT FROM was_ordered AND is_ordered IS NOT NULL THEN
        SELECT array_agg(h.subject) INTO subjects
        FROM (
            SELECT q.subject FROM outbox.delivery_queue q
            WHERE q.subscription_id = subscription AND q.subject IS NOT NULL
            GROUP BY q.subject HAVING min(q.due_at) = 'infinity'
        ) h;
        IF subjects IS NOT NULL THEN
            PERFORM outbox.promote(array_fill(subscription, ARRAY[cardinality(subjects)]), subjects);
        END IF;
    END IF;
END
$$;
