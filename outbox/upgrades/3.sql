-- From version 2 to 3: replays, the catalogue of event types, captures, and what operators
-- look for in the log of attempts. schema.sql says what each column is for.

ALTER TABLE outbox.delivery ADD COLUMN replay_id uuid;
DROP INDEX outbox.delivery_event;
CREATE INDEX delivery_event ON outbox.delivery (event_id, subscription_id);
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
    error              text,                                        -- why it failed, or who cancelled it
    actor              text        NOT NULL,                        -- the person who asked
    command            text        NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    moved_at           timestamptz NOT NULL DEFAULT now(),          -- when the cursor last moved
    ended_at           timestamptz,
    CONSTRAINT replay_ended CHECK ((state = 'running') = (ended_at IS NULL))
) WITH (fillfactor = 50);

CREATE INDEX replay_running ON outbox.replay (id) WHERE state = 'running';

-- Subscriptions that cannot take theirs as fast as the others, or not at all while they are
-- stopped: the replay goes on without them, and each has a cursor of its own.
CREATE TABLE outbox.replay_lane (
    replay_id       uuid NOT NULL,
    subscription_id uuid NOT NULL,
    after_event     uuid NOT NULL,       -- behind this event it goes on; it joins the others where they are
    PRIMARY KEY (replay_id, subscription_id)
);

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

-- The pairs of an event and a subscription that a replay brings together, among the events
-- from first_event to last_event: one definition, for those who count and those who make.
-- Not among them are events that wait for their fan-out, what a fan-out has brought since
-- `asked_at`, and subscriptions that came after it. The queue of events is asked as its key
-- is: for all that are due, and for each event that is put off or set aside. What matches is
-- asked once for each `kind`, which is all that matching looks at, in one value: PostgreSQL
-- then knows how to join it. What an event has had is looked up for each pair if the events
-- are few (`in_slices`, where LIMIT leaves no other way), and else for all of them at once.
CREATE FUNCTION outbox.replay_pairs(
        mode text, only_to uuid, type text, tenant text, subject text,
        first_event uuid, last_event uuid, asked_at timestamptz, in_slices boolean)
    RETURNS TABLE (event_id uuid, subscription_id uuid)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH chosen AS MATERIALIZED (
        SELECT e.id, concat(e.source = 'outbox', ' ', e.type, ' ', e.tenant) AS kind,
            e.type, e.tenant, coalesce(e.source = 'outbox', false) AS ours
        FROM outbox.event e
        WHERE e.id BETWEEN first_event AND last_event
            AND (replay_pairs.type IS NULL OR e.type = replay_pairs.type
                OR right(replay_pairs.type, 1) = '*'
                AND starts_with(e.type, left(replay_pairs.type, -1)))
            AND (replay_pairs.tenant IS NULL OR e.tenant = replay_pairs.tenant)
            AND (replay_pairs.subject IS NULL OR e.subject = replay_pairs.subject)
            AND e.id NOT IN (
                SELECT q.event_id FROM outbox.event_queue q WHERE q.due_at < now() + interval '1 min')
            AND NOT EXISTS (
                SELECT FROM outbox.event_queue q
                WHERE q.event_id = e.id AND q.due_at IN (e.due_at, 'infinity'))
    ), matched AS MATERIALIZED (
        SELECT k.kind, s.id, m.filter
        FROM (
            SELECT DISTINCT c.kind, c.type, c.tenant, c.ours FROM chosen c WHERE mode <> 'dead'
        ) k
        CROSS JOIN LATERAL outbox.matching(k.type, k.tenant, k.ours) m
        JOIN outbox.subscription s ON s.id = m.subscription_id AND s.created_at <= asked_at
        WHERE only_to IS NULL OR s.id = only_to
    ), pair AS NOT MATERIALIZED (
        SELECT c.id AS event_id, m.id AS subscription_id
        FROM chosen c JOIN matched m ON m.kind = c.kind
        WHERE m.filter IS NULL OR (
            SELECT outbox.passes(e.data, m.filter) FROM outbox.event e WHERE e.id = c.id LIMIT 1)
    ), had AS NOT MATERIALIZED (
        SELECT d.event_id, d.subscription_id FROM outbox.delivery d
        WHERE mode = 'missing' OR d.replay_id IS NULL AND d.id >= outbox.uuid7_floor(asked_at)
    )
    SELECT p.event_id, p.subscription_id
    FROM pair p LEFT JOIN LATERAL (
        SELECT true AS found FROM had h
        WHERE h.event_id = p.event_id AND h.subscription_id = p.subscription_id LIMIT 1
    ) h ON true
    WHERE in_slices AND h.found IS NULL
    UNION ALL
    SELECT p.event_id, p.subscription_id
    FROM pair p
    WHERE NOT in_slices AND NOT EXISTS (
        SELECT FROM had h
        WHERE h.event_id = p.event_id AND h.subscription_id = p.subscription_id)
    UNION ALL
    SELECT DISTINCT d.event_id, d.subscription_id
    FROM chosen c
    JOIN outbox.delivery d ON d.event_id = c.id
    JOIN outbox.attempt a ON a.delivery_id = d.id AND a.outcome = 'dead'
    JOIN outbox.subscription s ON s.id = d.subscription_id AND s.state <> 'removed'
    WHERE mode = 'dead' AND (only_to IS NULL OR s.id = only_to)
        AND NOT coalesce((
            SELECT true FROM outbox.delivery o
            WHERE o.event_id = d.event_id AND o.subscription_id = d.subscription_id
                AND coalesce(
                    (SELECT true FROM outbox.delivery_queue q WHERE q.delivery_id = o.id LIMIT 1),
                    (SELECT true FROM outbox.attempt b
                     WHERE b.delivery_id = o.id AND b.outcome = 'delivered' LIMIT 1))
            LIMIT 1), false);
END;


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
