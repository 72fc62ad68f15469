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

DROP INDEX outbox.delivery_queue_lane;
CREATE INDEX delivery_queue_lane ON outbox.delivery_queue (subscription_id, due_at)
    WITH (deduplicate_items = off);  -- an entry that stands for itself alone is passed over once it is dead


-- Matching ---------------------------------------------------------------------------

-- The subscriptions whose patterns and tenant fit; their filters are still to be asked.
-- `ours` says that the outbox itself emitted the event: a bare * does not mean those.
-- LIMIT 1 leaves the planner no other way than from the patterns to the primary key: while
-- there are few subscriptions it would walk over all of them, and worker sessions keep plans.
CREATE OR REPLACE FUNCTION outbox.matching(type text, tenant text, ours boolean DEFAULT false)
    RETURNS TABLE (
        subscription_id uuid, filter jsonpath, first_delay double precision, limited boolean,
        ordered boolean)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT s.id, s.filter::jsonpath, coalesce(s.schedule[1], 0), s.limited, s.ordered IS NOT NULL
    FROM (
        SELECT DISTINCT t.subscription_id AS id FROM outbox.subscription_type t
        WHERE t.pattern = ANY (outbox.patterns(matching.type))
          AND t.tenant = ANY (ARRAY['', coalesce(matching.tenant, '')])
          AND NOT (matching.ours AND t.pattern = '*')
    ) fitting
    CROSS JOIN LATERAL (
        SELECT s.id, s.filter, s.schedule, s.limited, s.ordered
        FROM outbox.subscription s WHERE s.id = fitting.id LIMIT 1
    ) s;
END;


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

-- The pairs of an event and a subscription that a replay brings together, among the events
-- from first_event to last_event: one definition, for those who count and those who make.
-- Not among them are events that wait for their fan-out, what a fan-out has brought since
-- `asked_at`, and subscriptions that came after it; nor are test events, which were for one. The queue of events is asked as its key
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
            AND NOT coalesce(e.source = 'outbox' AND e.context ->> 'test' = 'true', false)
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
    ), died AS NOT MATERIALIZED (
        SELECT d.event_id, d.subscription_id
        FROM chosen c
        CROSS JOIN LATERAL (
            SELECT d.id, d.event_id, d.subscription_id FROM outbox.delivery d
            WHERE d.event_id = c.id OFFSET 0
        ) d
        WHERE mode = 'dead' AND in_slices AND coalesce((
            SELECT true FROM outbox.attempt a
            WHERE a.delivery_id = d.id AND a.outcome = 'dead' LIMIT 1), false)
        UNION ALL
        SELECT d.event_id, d.subscription_id
        FROM chosen c
        JOIN outbox.delivery d ON d.event_id = c.id
        JOIN outbox.attempt a ON a.delivery_id = d.id AND a.outcome = 'dead'
        WHERE mode = 'dead' AND NOT in_slices
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
    FROM died d
    WHERE (only_to IS NULL OR d.subscription_id = only_to)
        AND coalesce((
            SELECT s.state <> 'removed' FROM outbox.subscription s
            WHERE s.id = d.subscription_id LIMIT 1), false)
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


-- Names of subscriptions --------------------------------------------------------------

ALTER TABLE outbox.subscription ADD COLUMN name text CONSTRAINT subscription_name_grammar CHECK (
    length(name) <= 128 AND name ~ '^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$');
CREATE UNIQUE INDEX subscription_name ON outbox.subscription (name) WHERE state <> 'removed';


-- Keys --------------------------------------------------------------------------------

-- Writes a batch of events and returns their ids in its order, in one statement that any
-- language can run:
--   SELECT id FROM outbox.emit('[{"type": "invoice.paid", "data": {"id": 1}, "key": "pay-1"}]')
-- The members are the columns of event, and key. A key that was used before gives the id
-- of the first event. Where an event differs from the one its key stands for, nothing of
-- the batch is written. Runs with the caller's privileges: INSERT on event, and for keys
-- SELECT and INSERT on event_key.
-- Keys are looked up one by one in their index: a plan from when there were few of them, or
-- for the hundred events that the planner takes a batch for, would read them all each time.
CREATE OR REPLACE FUNCTION outbox.emit(events json) RETURNS TABLE (id uuid, differs boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ids     uuid[]  := ARRAY(SELECT outbox.uuid7() FROM json_array_elements(events));
    keyed   boolean := EXISTS (SELECT FROM json_array_elements(events) v WHERE v ->> 'key' IS NOT NULL);
    digests bytea[];
    fresh   uuid[];
    differ  boolean[];
BEGIN
    IF keyed THEN
        digests := ARRAY(SELECT outbox.digest(v) FROM json_array_elements(events) v);
        differ := ARRAY(
            SELECT coalesce(
                digests[n] <> coalesce(k.digest, first_value(digests[n]) OVER same_key), false)
            FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
            LEFT JOIN LATERAL (
                SELECT k.event_id, k.digest FROM outbox.event_key k
                WHERE k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key' LIMIT 1
            ) k ON true
            WINDOW same_key AS (
                PARTITION BY v ->> 'tenant', coalesce(v ->> 'key', n::text), v ->> 'key' IS NULL
                ORDER BY n)
            ORDER BY n);
        IF true = ANY (differ) THEN
            RETURN QUERY
            SELECT coalesce(k.event_id, ids[n]), differ[n]
            FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
            LEFT JOIN LATERAL (
                SELECT k.event_id, k.digest FROM outbox.event_key k
                WHERE k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key' LIMIT 1
            ) k ON true
            ORDER BY n;
            RETURN;
        END IF;
        -- In the order of the keys, so that two batches never wait for each other in a circle.
        WITH inserted AS (
            INSERT INTO outbox.event_key (tenant, key, event_id, digest)
            SELECT DISTINCT ON (1, 2) coalesce(v ->> 'tenant', ''), v ->> 'key', ids[n], digests[n]
            FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
            WHERE v ->> 'key' IS NOT NULL
            ORDER BY 1, 2, n
            ON CONFLICT DO NOTHING
            RETURNING event_id
        )
        SELECT array_agg(event_id) INTO fresh FROM inserted;
    END IF;

    INSERT INTO outbox.event (id, type, tenant, subject, source, data, context, occurred_at, due_at)
    SELECT ids[n], v ->> 'type', v ->> 'tenant', v ->> 'subject', v ->> 'source', v -> 'data',
        v -> 'context', coalesce((v ->> 'occurred_at')::timestamptz, clock_timestamp()),
        (v ->> 'due_at')::timestamptz
    FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
    WHERE v ->> 'key' IS NULL OR ids[n] = ANY (fresh)
    ORDER BY n;

    IF NOT keyed THEN
        RETURN QUERY SELECT u, false FROM unnest(ids) u;
        RETURN;
    END IF;
    FOR id, differs IN
        SELECT coalesce(k.event_id, ids[n]), coalesce(k.digest <> digests[n], false)
        FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
        LEFT JOIN LATERAL (
            SELECT k.event_id, k.digest FROM outbox.event_key k
            WHERE k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key' LIMIT 1
        ) k ON true
        ORDER BY n
    LOOP
        -- Another transaction took the key since the look above: a batch is undone as a whole.
        IF differs AND cardinality(ids) > 1 THEN
            RAISE EXCEPTION 'outbox.emit: a key already belongs to event %, whose content differs', id
                USING ERRCODE = 'unique_violation';
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;


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
    WHERE q.delivery_id = ANY (ARRAY[free.delivery_id])
        AND NOT coalesce((
            SELECT true FROM outbox.delivery_queue h
            WHERE h.subscription_id = k.id AND h.subject = k.subject
                AND h.subject IS NOT NULL AND h.due_at < 'infinity' LIMIT 1), false)
        AND NOT coalesce((
            SELECT true FROM outbox.blocked_subject b
            WHERE b.subscription_id = k.id AND b.subject = k.subject LIMIT 1), false);
    GET DIAGNOSTICS promoted = ROW_COUNT;
    RETURN promoted;
END
$$;

-- Ends the claims of limited subscriptions whose attempts were recorded: they count no
-- more, and of an ordered one the next of the subject may go, or the subject is blocked
-- if this delivery is dead and the subscription says stop.
CREATE OR REPLACE FUNCTION outbox.settle(delivery_ids uuid[], attempts smallint[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    streams  uuid[];
    subjects text[];
BEGIN
    PERFORM FROM outbox.throttle t
    WHERE t.subscription_id IN (
        SELECT c.subscription_id FROM outbox.limited_claim c WHERE c.delivery_id = ANY (delivery_ids))
    ORDER BY t.subscription_id
    FOR UPDATE;

    WITH ended AS (
        DELETE FROM outbox.limited_claim c
        USING unnest(delivery_ids, attempts) AS g (delivery_id, attempt)
        WHERE c.delivery_id = ANY (ARRAY[g.delivery_id]) AND c.attempt = g.attempt
        RETURNING c.delivery_id, c.subscription_id, c.subject
    ), blocked AS (
        INSERT INTO outbox.blocked_subject (subscription_id, subject, delivery_id)
        SELECT e.subscription_id, e.subject, e.delivery_id
        FROM ended e JOIN outbox.subscription s ON s.id = e.subscription_id AND s.ordered = 'stop'
        WHERE e.subject IS NOT NULL AND EXISTS (
            SELECT FROM outbox.attempt a WHERE a.delivery_id = e.delivery_id AND a.outcome = 'dead')
        ON CONFLICT DO NOTHING
    )
    SELECT array_agg(e.subscription_id), array_agg(e.subject) INTO streams, subjects
    FROM ended e WHERE e.subject IS NOT NULL;

    IF streams IS NOT NULL THEN
        PERFORM outbox.promote(streams, subjects);
    END IF;
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


-- Changes of tables as events --------------------------------------------------------

-- The tables whose changes are events. Triggers write them, which have the id in their
-- names and carry all they need as arguments; this row is for people. Tables and columns
-- are known by their names, so a dump can be restored.
CREATE TABLE outbox.capture (
    id           uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    table_name   text        NOT NULL,                              -- as SQL writes it: public.users; the source of its events
    type         text        NOT NULL,                              -- user, for user.created; with type_from what an unusable value becomes
    operations   text[]      NOT NULL CONSTRAINT capture_operations_known CHECK (
                     cardinality(operations) > 0
                     AND operations <@ '{insert,update,delete,truncate}'),
    columns      text[]      NOT NULL,                              -- what the events tell of
    excluded     text[]      NOT NULL,                              -- what was there as well when it was added
    tenant_from  text,                                              -- the columns that make an event's tenant,
    subject_from text[]      NOT NULL,                              -- its subject: user/42,
    type_from    text,                                              -- and its type, of a table whose rows are events
    actor        text        NOT NULL,                              -- the person who added it
    command      text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    removed_at   timestamptz,
    removed_by   text,
    CONSTRAINT capture_removed CHECK ((removed_at IS NULL) = (removed_by IS NULL))
);

-- The event type that a text of the host becomes: itself if it is one; else with - for
-- what no type may hold; else, if nothing is left of it, the fallback.
CREATE FUNCTION outbox.event_type_of(value text, fallback text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN length(value) <= 128 AND value ~ '^[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*$' THEN value
        ELSE coalesce(nullif(btrim(left(btrim(
            regexp_replace(
                regexp_replace(left(value, 1024), '[^A-Za-z0-9_./:-]+', '-', 'g'),
                '([./:])[./:]+', '\1', 'g'),
            './:-'), 128), './:-'), ''), fallback)
    END;

-- A row as JSON that an event can hold, for rows that are too large, or hold JSON that is
-- nested deeper than the 64 levels that emit allows, or that jsonb cannot read (NUL, lone
-- surrogates): such JSON becomes a string. For a value that is longer than `longest` stands
-- a mark, by which it can be compared. Columns that the table does not have are left out.
CREATE FUNCTION outbox.careful_row(
        host_row record, host_table oid, wanted text[], longest integer) RETURNS json
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name    text;
    value   text;
    good    boolean;
    members text[] := '{}';
BEGIN
    FOR name IN
        SELECT a.attname FROM pg_attribute a
        WHERE a.attrelid = host_table AND a.attname = ANY (wanted) AND NOT a.attisdropped
        ORDER BY a.attnum
    LOOP
        BEGIN
            EXECUTE format('SELECT coalesce(to_json($1.%I)::text, ''null'')', name)
                INTO value USING host_row;
            BEGIN
                good := NOT jsonb_path_exists(value::jsonb, '$.**{62}');
            EXCEPTION WHEN OTHERS THEN
                good := false;
            END;
            value := CASE WHEN good THEN value ELSE to_json(value)::text END;
            IF octet_length(value) > longest THEN
                value := json_build_object('outbox:omitted', hashtextextended(value, 0));
            END IF;
        EXCEPTION WHEN OTHERS THEN  -- more than a gigabyte as text, for one
            value := json_build_object('outbox:omitted', gen_random_uuid());
        END;
        members := members || (to_json(name)::text || ':' || value);
    END LOOP;
    RETURN '{' || array_to_string(members, ',') || '}';
END
$$;

-- What an event tells of a change: {"new": {…}, "old": {…}, "changed": ["email"]}, of an
-- inserted row only new, of a deleted one only old; `flat` is the new row alone. NULL: an
-- update changed none of the columns.
CREATE FUNCTION outbox.change_data(new_row json, old_row json, columns text[], flat boolean)
    RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark    CONSTANT text := '{"outbox:omitted" :%';
    news    text;
    olds    text;
    changed text;
    omitted text;
BEGIN
    -- The rows are of one table, so their members pair up one by one.
    SELECT string_agg(c.name || ':' || c.new_value, ',') FILTER (WHERE c.new_value NOT LIKE mark),
        string_agg(c.name || ':' || c.old_value, ',') FILTER (WHERE c.old_value NOT LIKE mark),
        string_agg(c.name, ',') FILTER (WHERE c.new_value <> c.old_value),
        string_agg(c.name, ',') FILTER (WHERE c.new_value LIKE mark OR c.old_value LIKE mark)
    INTO news, olds, changed, omitted
    FROM (
        SELECT to_json(coalesce(r.new_name, r.old_name))::text AS name,
            r.new_value::text AS new_value, r.old_value::text AS old_value
        FROM ROWS FROM (json_each(new_row), json_each(old_row))
            AS r (new_name, new_value, old_name, old_value)
        WHERE coalesce(r.new_name, r.old_name) = ANY (columns)
    ) c;
    IF new_row IS NOT NULL AND old_row IS NOT NULL AND changed IS NULL THEN
        RETURN NULL;
    END IF;
    omitted := '"omitted":[' || omitted || ']';
    IF flat THEN
        RETURN '{' || concat_ws(',', news, omitted) || '}';
    END IF;
    RETURN '{' || concat_ws(',',
        CASE WHEN new_row IS NOT NULL THEN '"new":{' || coalesce(news, '') || '}' END,
        CASE WHEN old_row IS NOT NULL THEN '"old":{' || coalesce(olds, '') || '}' END,
        '"changed":[' || changed || ']', omitted) || '}';
END
$$;

-- Writes the event of a change, in the transaction of the change. Whatever the host does
-- to its table and puts there, its statement must not fail because of this.
--
-- For each row and before all other triggers (their order is that of their names), so that
-- the events of a row come in the order of its changes, also when a trigger of the host
-- changes it once more. A trigger for each statement would come too late for that, and
-- would not see what is written to a partition directly. Only where a trigger of the host
-- changes other rows of the statement that it belongs to, theirs may come the other way
-- round.
--
-- SECURITY DEFINER with its own search_path, so that the host needs no privilege; the
-- other settings make a value look the same in every session. If the host has made a cast
-- to json for a type of its own, to_json runs it, with the rights of the owner of this
-- schema: capture the tables of those whom you trust with them.
--
-- Arguments: source, type, columns, tenant_from, subject_from, type_from, all of these
-- columns together, and a query that reads them from a row; '' if that is the whole row.
CREATE FUNCTION outbox.capture_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601'
    SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    room    CONSTANT integer := 262144;  -- bytes for both rows, as much as emit allows
    columns text[] := TG_ARGV[2];
    type    text   := TG_ARGV[1];
    subject text   := TG_ARGV[1];
    new_row json;
    old_row json;
    about   jsonb;                       -- the row that tenant, subject and type come from
    fits    boolean;
    longest integer;
    data    text;
    part    text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO outbox.event (type, source, data) VALUES (type || '.truncated', TG_ARGV[0], '{}');
        RETURN NULL;
    END IF;

    BEGIN
        IF TG_ARGV[7] <> '' THEN
            BEGIN
                IF TG_OP <> 'DELETE' THEN
                    EXECUTE TG_ARGV[7] INTO new_row USING NEW;
                END IF;
                IF TG_OP <> 'INSERT' THEN
                    EXECUTE TG_ARGV[7] INTO old_row USING OLD;
                END IF;
            EXCEPTION WHEN undefined_column THEN  -- renamed or dropped since
                new_row := NULL;
                old_row := NULL;
            END;
        END IF;
        IF new_row IS NULL AND old_row IS NULL THEN
            new_row := row_to_json(NEW);
            old_row := row_to_json(OLD);
        END IF;
        IF new_row::text = old_row::text THEN
            RETURN NULL;
        END IF;
        about := coalesce(new_row, old_row)::jsonb;
        fits := octet_length(concat(new_row, old_row)) <= room
            AND NOT jsonb_path_exists(about, '$.**{63}')
            AND (TG_OP <> 'UPDATE' OR NOT jsonb_path_exists(old_row::jsonb, '$.**{63}'));
    EXCEPTION WHEN OTHERS THEN
        fits := false;
    END;
    IF NOT fits THEN
        FOREACH longest IN ARRAY ARRAY[room, 4096, 64] LOOP
            new_row := CASE WHEN TG_OP <> 'DELETE' THEN outbox.careful_row(NEW, TG_RELID, TG_ARGV[6]::text[], longest) END;
            old_row := CASE WHEN TG_OP <> 'INSERT' THEN outbox.careful_row(OLD, TG_RELID, TG_ARGV[6]::text[], longest) END;
            EXIT WHEN octet_length(concat(new_row, old_row)) <= room;
        END LOOP;
        about := coalesce(new_row, old_row)::jsonb;
    END IF;

    IF fits AND TG_OP = 'INSERT' AND TG_ARGV[5] = '' AND about - columns = '{}' THEN
        data := '{"new":' || new_row || '}';
    ELSIF fits AND TG_OP = 'DELETE' AND about - columns = '{}' THEN
        data := '{"old":' || old_row || '}';
    ELSE
        data := outbox.change_data(new_row, old_row, columns, TG_ARGV[5] <> '');
    END IF;
    IF data IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH part IN ARRAY TG_ARGV[4]::text[] LOOP
        subject := subject || '/' || (about ->> part);
    END LOOP;
    type := CASE
        WHEN TG_ARGV[5] <> '' THEN outbox.event_type_of(about ->> TG_ARGV[5], type)
        WHEN TG_OP = 'INSERT' THEN type || '.created'
        WHEN TG_OP = 'UPDATE' THEN type || '.updated'
        ELSE type || '.deleted'
    END;
    INSERT INTO outbox.event (type, tenant, subject, source, data)
    VALUES (type, nullif(about ->> TG_ARGV[3], ''),
        CASE WHEN TG_ARGV[4] <> '{}' THEN left(subject, 1024) END, TG_ARGV[0], data::json);
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION outbox.capture_change() FROM PUBLIC;  -- or any table could tell of anything

-- What a person has to know of a table before its changes are captured.
CREATE FUNCTION outbox.describe_table(host_table oid) RETURNS TABLE (
        table_name text, schema_name text, kind text, temporary boolean, owner text, owned boolean,
        columns text[], computed text[], key text[], children text[], family bigint[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT format('%I.%I', n.nspname, r.relname), n.nspname::text, r.relkind::text,
        r.relpersistence = 't', r.relowner::regrole::text, pg_has_role(r.relowner, 'USAGE'),
        ARRAY(
            SELECT a.attname::text FROM pg_attribute a
            WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum),
        ARRAY(                                                      -- at every reading: triggers do not see them
            SELECT a.attname::text FROM pg_attribute a
            WHERE a.attrelid = r.oid AND a.attgenerated = 'v'),
        ARRAY(
            SELECT a.attname::text
            FROM pg_index i
            CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.attnum
            WHERE i.indrelid = r.oid AND i.indisprimary AND k.n <= i.indnkeyatts
            ORDER BY k.n),
        ARRAY(                                                      -- tables that inherit, and are no partitions
            SELECT h.inhrelid::regclass::text
            FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
            WHERE h.inhparent = r.oid AND NOT p.relispartition),
        ARRAY(
            SELECT r.oid::bigint
            UNION SELECT p.relid::oid::bigint FROM pg_partition_ancestors(r.oid) p
            UNION SELECT p.relid::oid::bigint FROM pg_partition_tree(r.oid) p)
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE r.oid = host_table;
END;

-- Makes the triggers of a capture. Waits no longer than a second for those who hold the
-- table, since others wait behind it, and fails rather.
CREATE FUNCTION outbox.start_capture(capture uuid, host_table oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    c         outbox.capture;
    wanted    text[];
    query     text := '';
    arguments text;
BEGIN
    SELECT o.* INTO STRICT c FROM outbox.capture o WHERE o.id = capture;
    wanted := ARRAY(
        SELECT w.name
        FROM unnest(c.columns || c.tenant_from || c.subject_from || c.type_from)
            WITH ORDINALITY AS w (name, n)
        WHERE w.name IS NOT NULL GROUP BY w.name ORDER BY min(w.n));
    -- What is left out is not even read: it may be large. But a column whose name is that
    -- of a function over rows, such as count, would be taken for it once it is dropped.
    IF cardinality(c.excluded) > 0 AND NOT EXISTS (
        SELECT FROM pg_proc p
        WHERE p.proname = ANY (wanted) AND p.pronamespace = 'pg_catalog'::regnamespace
            AND (p.provariadic <> 0 OR p.proargtypes[0]::regtype::text ~ '^"?(any|record)'))
    THEN
        query := 'SELECT row_to_json(r.*) FROM (SELECT '
            || (SELECT string_agg(format('$1.%I', w.name), ', ' ORDER BY w.n)
                FROM unnest(wanted) WITH ORDINALITY AS w (name, n))
            || ') r';
    END IF;
    arguments := format('%L, %L, %L, %L, %L, %L, %L, %L', c.table_name, c.type, c.columns,
        coalesce(c.tenant_from, ''), c.subject_from, coalesce(c.type_from, ''), wanted, query);
    IF c.operations <> '{truncate}' THEN
        EXECUTE format(
            'CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW EXECUTE FUNCTION outbox.capture_change(%s)',
            '!outbox_' || c.id, array_to_string(array_remove(c.operations, 'truncate'), ' OR '),
            host_table::regclass, arguments);
    END IF;
    IF 'truncate' = ANY (c.operations) THEN
        EXECUTE format(
            'CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION outbox.capture_change(%s)',
            '!outbox_' || c.id || '_truncate', host_table::regclass, arguments);
    END IF;
END
$$;

-- Drops the triggers of a capture, wherever they are now.
CREATE FUNCTION outbox.stop_capture(capture uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname, g.tgrelid::regclass AS host_table FROM pg_trigger g
        WHERE g.tgname IN ('!outbox_' || capture, '!outbox_' || capture || '_truncate')
            AND g.tgparentid = 0
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.host_table);
    END LOOP;
END
$$;

-- What became of the captures: whether their triggers are there and work, and the table
-- and its columns as they are now.
CREATE VIEW outbox.capture_state AS
SELECT c.id, t.host_table, d.table_name AS table_now, d.columns AS columns_now,
    d.children AS children_now,
    CASE
        WHEN c.removed_at IS NOT NULL THEN 'removed'
        WHEN coalesce(t.triggers, 0) < (c.operations <> '{truncate}')::integer
            + ('truncate' = ANY (c.operations))::integer THEN 'lost'
        WHEN NOT t.enabled THEN 'disabled'
        ELSE 'active'
    END AS state
FROM outbox.capture c
LEFT JOIN LATERAL (
    SELECT g.tgrelid AS host_table, count(*) AS triggers,
        bool_and(g.tgenabled IN ('O', 'A')) AS enabled
    FROM pg_catalog.pg_trigger g
    WHERE g.tgname IN ('!outbox_' || c.id, '!outbox_' || c.id || '_truncate') AND g.tgparentid = 0
    GROUP BY g.tgrelid
    ORDER BY triggers DESC
    LIMIT 1
) t ON true
LEFT JOIN LATERAL outbox.describe_table(t.host_table) d ON true;



-- Facts stay as they are, but for upkeep.
CREATE OR REPLACE FUNCTION outbox.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('outbox.upkeep', true) = 'on' THEN
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        ELSIF TG_OP = 'UPDATE' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'outbox.% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

-- Makes the table of one day of a fact, which is still to be attached; returns its name.
CREATE FUNCTION outbox.make_partition(fact text, day date) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part text := fact || to_char(day, '_YYYYMMDD');
BEGIN
    EXECUTE format(
        'CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
        ' WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', part, fact);
    EXECUTE format(
        'CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change()', part);
    RETURN part;
END
$$;

CREATE FUNCTION outbox.attach_partition(fact text, day date) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    EXECUTE format(
        'ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)',
        fact, fact || to_char(day, '_YYYYMMDD'), outbox.uuid7_floor(day), outbox.uuid7_floor(day + 1));
END
$$;

-- Makes the partitions of the facts for today (UTC) and the days ahead; returns how many
-- it made. Workers call it every hour. A new table is made first and then attached,
-- which lets hosts go on inserting; it waits half a second for anyone, which is before
-- PostgreSQL looks for deadlocks, and fails rather. A day whose rows already went to the
-- DEFAULT partition is left there until it is over; then drain_default brings them home.
CREATE OR REPLACE FUNCTION outbox.make_partitions(days_ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    SET lock_timeout = '500ms' AS $$
DECLARE
    fact text;
    day  date;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('outbox.make_partitions', 0));
    FOREACH fact IN ARRAY ARRAY['event', 'delivery', 'attempt'] LOOP
        FOR ahead IN 0..days_ahead LOOP
            day := current_date + ahead;
            CONTINUE WHEN to_regclass('outbox.' || fact || to_char(day, '_YYYYMMDD')) IS NOT NULL;
            BEGIN
                PERFORM outbox.make_partition(fact, day);
                PERFORM outbox.attach_partition(fact, day);
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'outbox.%_default holds rows of %: its partition is not made', fact, day;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
REVOKE EXECUTE ON FUNCTION outbox.make_partitions(integer) FROM PUBLIC;


-- Retention --------------------------------------------------------------------------

-- How long facts are kept. Workers drop what is older, day by day; only the owner and
-- operators change it.
CREATE TABLE outbox.retention (
    one_row    boolean     PRIMARY KEY DEFAULT true CONSTRAINT retention_is_one_row CHECK (one_row),
    keep       interval    CONSTRAINT retention_keeps_a_day CHECK (keep >= interval '1 day'),  -- NULL: for ever
    actor      text,
    command    text,
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO outbox.retention DEFAULT VALUES;

-- Erasures of what events said about a subject, each a fact. The events stay, without it.
CREATE TABLE outbox.erasure (
    id        uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    tenant    text,
    subject   text        NOT NULL,
    actor     text        NOT NULL,
    command   text        NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.erasure
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.erasure
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();

-- The day (UTC) on which an id was made.
CREATE FUNCTION outbox.day_of(id uuid) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (to_timestamp(
        ('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0
    ) AT TIME ZONE 'UTC')::date;

-- The days before `moment` that have partitions, what they take, and why a day is held: what is
-- still open is never dropped. Reads the queues as a whole, without any lock.
CREATE FUNCTION outbox.days_before(moment timestamptz)
    RETURNS TABLE (day date, bytes bigint, held text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH part AS (
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, sum(pg_total_relation_size(c.oid))::bigint AS bytes
        FROM pg_class c
        WHERE c.relnamespace = 'outbox'::regnamespace AND c.relispartition
            AND c.relname ~ '^(event|delivery|attempt)_[0-9]{8}$'
        GROUP BY 1
    ), busy AS (
        SELECT outbox.day_of(q.event_id) AS day, 'a delivery is open' AS held FROM outbox.delivery_queue q
        UNION ALL
        SELECT outbox.day_of(q.delivery_id), 'a delivery is open' FROM outbox.delivery_queue q
        UNION ALL
        SELECT outbox.day_of(q.event_id), 'an event is not fanned out' FROM outbox.event_queue q
    ), held AS (
        SELECT b.day, min(b.held) AS held FROM busy b GROUP BY b.day
    )
    SELECT p.day, p.bytes, coalesce(h.held, (
        SELECT 'replay ' || r.id || ' is running' FROM outbox.replay r
        WHERE r.state = 'running'
            AND p.day BETWEEN greatest(outbox.day_of(r.after_event), (r.since AT TIME ZONE 'UTC')::date)
                AND outbox.day_of(r.last_event)
        LIMIT 1))
    FROM part p LEFT JOIN held h ON h.day = p.day
    WHERE p.day < (moment AT TIME ZONE 'UTC')::date
    ORDER BY p.day;
END;

-- Drops one day of a fact that is past its retention and not held. `looked_at` is when
-- days_before was asked: only what was made since then is looked at again, under the lock.
-- It waits for nobody longer than 0.3 seconds, so that nobody waits longer for it: it fails
-- with lock_not_available and is called again. Call it for event, delivery, attempt in this
-- order, each in a transaction of its own.
CREATE FUNCTION outbox.drop_day(fact text, day date, looked_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms' SET timezone = 'UTC' AS $$
DECLARE
    part    text := fact || to_char(day, '_YYYYMMDD');
    first   uuid := outbox.uuid7_floor(day);
    beyond  uuid := outbox.uuid7_floor(day + 1);
BEGIN
    IF fact NOT IN ('event', 'delivery', 'attempt') THEN
        RAISE EXCEPTION 'outbox.drop_day: % has no days', fact USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM outbox.retention r WHERE day < (now() - r.keep)::date) THEN
        RAISE EXCEPTION 'outbox.drop_day: % is not past its retention', day
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('LOCK TABLE ONLY outbox.%I IN ACCESS EXCLUSIVE MODE', fact);
    IF EXISTS (
        SELECT FROM outbox.delivery_queue q
        WHERE q.delivery_id >= first AND q.delivery_id < beyond
        UNION ALL
        SELECT FROM outbox.delivery_queue q
        WHERE q.delivery_id >= outbox.uuid7_floor(looked_at - interval '1 minute')
            AND q.event_id >= first AND q.event_id < beyond
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS outbox.%I', part);
    RETURN true;
END
$$;

-- Forgets the keys of events that are past their retention, of the next `slice` keys behind
-- (tenant, key). Returns the last one it looked at, and no row at the end of all.
CREATE FUNCTION outbox.prune_keys(after_tenant text, after_key text, slice integer)
    RETURNS TABLE (tenant text, key text, pruned bigint)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET outbox.upkeep = 'on' AS $$
    WITH looked AS MATERIALIZED (
        SELECT k.tenant, k.key, k.event_id FROM outbox.event_key k
        WHERE (k.tenant, k.key) > (after_tenant, after_key)
        ORDER BY k.tenant, k.key LIMIT slice
    ), gone AS (
        DELETE FROM outbox.event_key k USING looked l, outbox.retention r
        WHERE k.tenant = l.tenant AND k.key = l.key
            AND l.event_id < outbox.uuid7_floor(date_trunc('day', now() - r.keep, 'UTC'))
        RETURNING 1
    )
    SELECT l.tenant, l.key, (SELECT count(*) FROM gone)
    FROM looked l ORDER BY l.tenant DESC, l.key DESC LIMIT 1
$$;

-- Moves one past day of a fact out of its DEFAULT partition into one of its own; returns
-- how many rows, 0 when nothing is left. Nobody inserts there for a past day any more.
CREATE FUNCTION outbox.drain_default(fact text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC' SET lock_timeout = '500ms' SET outbox.upkeep = 'on' AS $$
DECLARE
    id    text := CASE fact WHEN 'attempt' THEN 'delivery_id' ELSE 'id' END;
    day   date;
    part  text;
    moved bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('outbox.make_partitions', 0));
    EXECUTE format('SELECT outbox.day_of(%1$I) FROM outbox.%2$I WHERE %1$I < outbox.uuid7_floor(current_date)'
        ' ORDER BY %1$I LIMIT 1', id, fact || '_default') INTO day;
    IF day IS NULL THEN
        RETURN 0;
    END IF;
    part := outbox.make_partition(fact, day);
    EXECUTE format('WITH gone AS (DELETE FROM outbox.%I WHERE %I < outbox.uuid7_floor(%L) RETURNING *)'
        ' INSERT INTO outbox.%I SELECT * FROM gone', fact || '_default', id, day + 1, part);
    GET DIAGNOSTICS moved = ROW_COUNT;
    PERFORM outbox.attach_partition(fact, day);
    RETURN moved;
END
$$;

-- Takes out of the events about a subject, of these ids, what they say: data becomes null,
-- and context only tells when. What receivers answered goes as well; open deliveries of
-- them are cancelled. That they happened, and what became of them, stays.
CREATE FUNCTION outbox.erase(
    of_tenant text, of_subject text, first uuid, beyond uuid, reason text,
    OUT events bigint, OUT cancelled bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET outbox.upkeep = 'on' AS $$
DECLARE
    ids      uuid[];
    streams  uuid[];
    subjects text[];
BEGIN
    WITH erased AS (
        UPDATE outbox.event e
        SET data = 'null', context = json_build_object('erased_at', now())
        WHERE e.subject = of_subject AND e.tenant IS NOT DISTINCT FROM of_tenant
            AND e.id >= first AND e.id < beyond AND e.context ->> 'erased_at' IS NULL
        RETURNING e.id
    )
    SELECT array_agg(e.id), count(*) INTO ids, events FROM erased e;

    WITH gone AS (
        DELETE FROM outbox.delivery_queue q USING outbox.delivery d
        WHERE d.event_id = ANY (ids) AND q.delivery_id = d.id
        RETURNING q.delivery_id, q.attempt, q.subscription_id, q.subject
    ), ended AS (
        INSERT INTO outbox.attempt (delivery_id, attempt, outcome, error)
        SELECT g.delivery_id, g.attempt, 'cancelled', reason FROM gone g
    )
    SELECT count(*), array_agg(g.subscription_id) FILTER (WHERE g.subject IS NOT NULL),
        array_agg(g.subject) FILTER (WHERE g.subject IS NOT NULL)
    INTO cancelled, streams, subjects FROM gone g;

    UPDATE outbox.attempt a SET response_body = NULL, response_headers = NULL
    FROM outbox.delivery d
    WHERE d.event_id = ANY (ids) AND a.delivery_id = d.id
        AND (a.response_body IS NOT NULL OR a.response_headers IS NOT NULL);
    IF streams IS NOT NULL THEN
        PERFORM outbox.promote(streams, subjects);
    END IF;
END
$$;

REVOKE EXECUTE ON FUNCTION outbox.drop_day(text, date, timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION outbox.prune_keys(text, text, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION outbox.drain_default(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION outbox.erase(text, text, uuid, uuid, text) FROM PUBLIC;


-- Who may do what --------------------------------------------------------------------

-- Gives a role what its duty needs and no more; `outbox grant` calls it. Nobody but the
-- owner may change or delete a fact, or see the partitions by their own names.
--   host      writes events
--   worker    delivers them
--   operator  uses the command line
--   reader    sees everything but secrets; with `tenant` or `by_setting` the events,
--             subscriptions, deliveries and attempts of one tenant: that one, or that of
--             the setting outbox.tenant. Others' rights and plans stay as they are: the
--             policy for all says true, that of the reader only takes away.
CREATE FUNCTION outbox.grant_duty(
    duty text, grantee text, tenant text DEFAULT NULL, by_setting boolean DEFAULT false)
    RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    facts  constant text[] := ARRAY['event', 'event_key', 'delivery', 'attempt', 'subscription_change', 'erasure'];
    to_see constant text[] := ARRAY['event', 'subscription', 'delivery', 'delivery_queue', 'attempt'];
    own    constant text   := CASE WHEN by_setting THEN 'current_setting(''outbox.tenant'', true)'
                                   ELSE quote_literal(tenant) END;
    the_table text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA outbox TO %I', grantee);
    IF duty = 'host' THEN
        EXECUTE format('GRANT INSERT ON outbox.event TO %I', grantee);
        EXECUTE format('GRANT SELECT, INSERT ON outbox.event_key TO %I', grantee);
    ELSIF duty = 'worker' THEN
        EXECUTE format('GRANT SELECT, INSERT ON outbox.event, outbox.delivery, outbox.attempt,'
            ' outbox.subscription_change TO %I', grantee);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.event_queue,'
            ' outbox.delivery_queue, outbox.limited_claim, outbox.blocked_subject,'
            ' outbox.subscription_health, outbox.throttle, outbox.worker, outbox.replay, outbox.replay_lane TO %I', grantee);
        EXECUTE format('GRANT SELECT ON outbox.subscription, outbox.subscription_type,'
            ' outbox.secret, outbox.retention, outbox.schema_version TO %I', grantee);
        EXECUTE format('GRANT UPDATE (state, state_reason, revision, changed_at)'
            ' ON outbox.subscription TO %I', grantee);
    ELSIF duty = 'operator' THEN
        FOR the_table IN
            SELECT c.relname FROM pg_class c
            WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p')
                AND NOT c.relispartition AND c.relname <> 'schema_version'
        LOOP
            EXECUTE format('GRANT SELECT, INSERT ON outbox.%I TO %I', the_table, grantee);
            CONTINUE WHEN the_table = ANY (facts);
            EXECUTE format('GRANT UPDATE, DELETE ON outbox.%I TO %I', the_table, grantee);
        END LOOP;
        EXECUTE format('GRANT SELECT ON outbox.schema_version TO %I', grantee);
    ELSIF duty = 'reader' AND tenant IS NULL AND NOT by_setting THEN
        FOR the_table IN
            SELECT c.relname FROM pg_class c
            WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p')
                AND NOT c.relispartition AND c.relname <> 'secret'
        LOOP
            EXECUTE format('GRANT SELECT ON outbox.%I TO %I', the_table, grantee);
        END LOOP;
    ELSIF duty = 'reader' THEN
        EXECUTE format('GRANT SELECT ON outbox.schema_version TO %I', grantee);
        FOREACH the_table IN ARRAY to_see LOOP
            EXECUTE format('GRANT SELECT ON outbox.%I TO %I', the_table, grantee);
            IF NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = to_regclass('outbox.' || the_table)) THEN
                EXECUTE format('CREATE POLICY everyone ON outbox.%I USING (true) WITH CHECK (true)', the_table);
                EXECUTE format('ALTER TABLE outbox.%I ENABLE ROW LEVEL SECURITY', the_table);
            END IF;
            EXECUTE format('DROP POLICY IF EXISTS %I ON outbox.%I', 'tenant of ' || grantee, the_table);
            EXECUTE format('CREATE POLICY %I ON outbox.%I AS RESTRICTIVE FOR SELECT TO %I USING (%s)',
                'tenant of ' || grantee, the_table, grantee,
                CASE the_table
                    WHEN 'event' THEN 'tenant = ' || own
                    WHEN 'subscription' THEN 'tenant = ' || own
                    WHEN 'attempt' THEN 'EXISTS (SELECT FROM outbox.delivery d WHERE d.id = delivery_id)'
                    ELSE 'EXISTS (SELECT FROM outbox.event e WHERE e.id = event_id)'
                END);
        END LOOP;
    ELSE
        RAISE EXCEPTION 'outbox.grant_duty: the duty is host, worker, operator or reader, not %', duty
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF duty IN ('worker', 'operator') THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.make_partitions(integer),'
            ' outbox.drain_default(text), outbox.drop_day(text, date, timestamptz),'
            ' outbox.prune_keys(text, text, integer) TO %I', grantee);
    END IF;
    IF duty = 'operator' THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION'
            ' outbox.erase(text, text, uuid, uuid, text) TO %I', grantee);
    END IF;
END
$$;

-- Takes everything back that a role has here.
CREATE FUNCTION outbox.revoke_duties(grantee text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    the_table text;
BEGIN
    FOR the_table IN
        SELECT p.tablename FROM pg_policies p
        WHERE p.schemaname = 'outbox' AND p.policyname = 'tenant of ' || grantee
    LOOP
        EXECUTE format('DROP POLICY %I ON outbox.%I', 'tenant of ' || grantee, the_table);
    END LOOP;
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM %I', grantee);
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM %I', grantee);
    EXECUTE format('REVOKE ALL ON SCHEMA outbox FROM %I', grantee);
END
$$;
