-- The outbox of an application, in its own PostgreSQL (15 or newer).
--
-- Facts are tables that are only ever inserted into: event, event_key, delivery,
-- attempt, subscription_change. What is still to do stands in two small queues,
-- event_queue and delivery_queue. Nothing else is mutable but the subscriptions,
-- whose every change is a fact too. So the story of each event can be told from the
-- facts alone, and the queues stay as small as the work that is open.
--
--   host ──INSERT──▶ event ──trigger──▶ event_queue
--                                            │ fan-out: one statement
--                                            ▼
--                               delivery, delivery_queue
--                                            │ claim, send, record
--                                            ▼
--                                         attempt
--
-- `outbox schema apply` runs this file in one transaction. Upgrades of an older
-- schema are the files of outbox/upgrades/; both ways lead to the same schema.

CREATE SCHEMA outbox;
COMMENT ON SCHEMA outbox IS 'Transactional outbox for webhooks: facts, two queues, subscriptions';


-- Versions ---------------------------------------------------------------------------

CREATE TABLE outbox.schema_version (
    version      integer PRIMARY KEY,                    -- programs start only on the version they know
    installed_at timestamptz NOT NULL DEFAULT now()      -- one row an upgrade: the history of this schema
);


-- Ids --------------------------------------------------------------------------------
-- UUIDv7 (RFC 9562): 48 bits of milliseconds, 12 bits of the millisecond's fraction,
-- 62 random bits. They grow with time, so a range of ids is a range of time: the big
-- tables are partitioned by id and still have plain primary keys.

DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        CREATE FUNCTION outbox.uuid7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE
            RETURN uuidv7();
    ELSE
        -- One reading of the clock: milliseconds and fraction are the 15 hex digits of
        -- (microseconds × 4.096); the version goes between, the variant comes with the
        -- second half of a random UUIDv4. One expression, so the planner inlines it.
        CREATE FUNCTION outbox.uuid7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE
            RETURN (overlay(
                lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 4096000)::bigint), 15, '0')
                PLACING '7' FROM 13 FOR 0
            ) || substring(gen_random_uuid()::text FROM 20))::uuid;
    END IF;
END
$$;

-- The smallest id of a moment: `id >= outbox.uuid7_floor('2026-01-31')`.
CREATE FUNCTION outbox.uuid7_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN rpad(
        lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0'
    )::uuid;


-- What happened ----------------------------------------------------------------------

-- The outbox. A host inserts here, in its own transaction, and needs nothing else:
--   INSERT INTO outbox.event (type, data) VALUES ('invoice.paid', '{"id": 1}')
CREATE TABLE outbox.event (
    id          uuid        NOT NULL DEFAULT outbox.uuid7(),          -- the webhook-id of every request about it
    type        text        NOT NULL CONSTRAINT event_type_grammar CHECK (
                    length(type) <= 128 AND type ~ '^[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*$'),
    tenant      text        CONSTRAINT event_tenant_not_empty CHECK (tenant <> ''),  -- whose event it is, in a host with tenants
    subject     text,                                                 -- the thing it is about, such as user/42
    source      text,                                                 -- the part of the host that it comes from
    data        json        NOT NULL CONSTRAINT event_data_is_jsonb CHECK (
                    data::jsonb IS NOT NULL),                         -- json: the exact text is kept, signed and sent;
                                                                      -- the check keeps out what no filter could read (NUL, lone surrogates)
    context     json        CONSTRAINT event_context_is_jsonb CHECK (
                    context IS NULL OR context::jsonb IS NOT NULL),   -- about the emitting request: traceparent, actor
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()
                    CONSTRAINT event_occurred_at_has_a_date CHECK (
                    occurred_at >= '0001-01-02Z' AND occurred_at < '9999-12-31Z'),  -- when it happened, as receivers are told
    due_at      timestamptz CONSTRAINT event_due_at_has_a_date CHECK (
                    due_at >= '0001-01-02Z' AND due_at < '9999-12-31Z'),  -- not to be delivered before; NULL: at once
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE outbox.event_default PARTITION OF outbox.event DEFAULT;  -- catches what has no partition yet; nothing is lost

-- Makes emit idempotent: a key stands for one event of its tenant, for ever.
CREATE TABLE outbox.event_key (
    tenant   text  NOT NULL DEFAULT '',  -- '' for events without a tenant: keys of tenants never meet
    key      text  NOT NULL,
    event_id uuid  NOT NULL,
    digest   bytea NOT NULL,             -- SHA-256 of type, subject and data: the same key with other content is refused
    PRIMARY KEY (tenant, key)
);

-- Events not yet fanned out. Filled by a trigger, emptied by the fan-out.
CREATE TABLE outbox.event_queue (
    due_at   timestamptz NOT NULL,       -- first in the key, so that fan-out reads the index from its left end;
                                         -- infinity: set aside, because its fan-out failed
    event_id uuid        NOT NULL,
    error    text,                       -- why it was set aside
    PRIMARY KEY (due_at, event_id),
    CONSTRAINT event_queue_set_aside CHECK ((error IS NOT NULL) = (due_at = 'infinity'))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- SECURITY DEFINER with its own search_path, so that a host needs INSERT on event and
-- nothing else. For each statement, not each row: a batch costs one insert more.
CREATE FUNCTION outbox.queue_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.event_queue (due_at, event_id)
    SELECT coalesce(e.due_at, clock_timestamp()), e.id FROM inserted e;
    RETURN NULL;
END
$$;

CREATE TRIGGER queue_events AFTER INSERT ON outbox.event
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.queue_events();


-- What a key stands for: the same whatever the order of members or the spacing of data.
CREATE FUNCTION outbox.digest(event json) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(
        jsonb_build_array(event -> 'type', event -> 'subject', event -> 'data')::text, 'UTF8'));

-- Writes a batch of events and returns their ids in its order, in one statement that any
-- language can run:
--   SELECT id FROM outbox.emit('[{"type": "invoice.paid", "data": {"id": 1}, "key": "pay-1"}]')
-- The members are the columns of event, and key. A key that was used before gives the id
-- of the first event. Where an event differs from the one its key stands for, nothing of
-- the batch is written. Runs with the caller's privileges: INSERT on event, and for keys
-- SELECT and INSERT on event_key.
CREATE FUNCTION outbox.emit(events json) RETURNS TABLE (id uuid, differs boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
            LEFT JOIN outbox.event_key k
                ON k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key'
            WINDOW same_key AS (
                PARTITION BY v ->> 'tenant', coalesce(v ->> 'key', n::text), v ->> 'key' IS NULL
                ORDER BY n)
            ORDER BY n);
        IF true = ANY (differ) THEN
            RETURN QUERY
            SELECT coalesce(k.event_id, ids[n]), differ[n]
            FROM json_array_elements(events) WITH ORDINALITY AS i (v, n)
            LEFT JOIN outbox.event_key k
                ON k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key'
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
        LEFT JOIN outbox.event_key k
            ON k.tenant = coalesce(v ->> 'tenant', '') AND k.key = v ->> 'key'
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


-- Who wants to know ------------------------------------------------------------------

-- A subscription as it is now. Every change is a row of subscription_change as well.
CREATE TABLE outbox.subscription (
    id           uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    tenant       text        CONSTRAINT subscription_tenant_not_empty CHECK (tenant <> ''),  -- NULL: events of every tenant
    url          text        NOT NULL,
    types        text[]      NOT NULL CONSTRAINT subscription_has_types CHECK (cardinality(types) > 0),
    filter       text        CONSTRAINT subscription_filter_is_jsonpath CHECK (
                     filter IS NULL OR filter::jsonpath IS NOT NULL),                 -- SQL/JSON path over data, kept as it was typed
    method       text        NOT NULL DEFAULT 'POST' CONSTRAINT subscription_method_known CHECK (
                     method IN ('POST', 'PUT', 'PATCH')),
    format       text        NOT NULL DEFAULT 'standard' CONSTRAINT subscription_format_known CHECK (
                     format IN ('standard', 'cloudevents', 'cloudevents-binary', 'raw', 'casdoor', 'logto')),
    schemes      text[]      NOT NULL DEFAULT '{standard}' CONSTRAINT subscription_has_schemes CHECK (
                     cardinality(schemes) > 0),                      -- how its requests are signed; {none}: not at all
    headers      json        NOT NULL DEFAULT '{}',                 -- sent with each request, beside our own
    user_agent   text,                                              -- NULL: ours
    timeout      double precision CONSTRAINT subscription_timeout_range CHECK (
                     timeout BETWEEN 0.1 AND 300),                  -- seconds for one request; NULL: as the worker is set
    schedule     double precision[],                                -- seconds before each attempt; NULL: the default schedule
    max_age      double precision CONSTRAINT subscription_max_age_range CHECK (
                     max_age BETWEEN 1 AND 31622400),               -- seconds after which a delivery is dead; NULL: the schedule alone decides
    -- Limits that hold for the whole fleet. Who sets none of them pays nothing for them.
    max_in_flight integer    CONSTRAINT subscription_max_in_flight_range CHECK (
                     max_in_flight BETWEEN 1 AND 10000),            -- requests at once
    rate         double precision CONSTRAINT subscription_rate_range CHECK (
                     rate BETWEEN 0.001 AND 100000),                -- requests a second
    burst        integer     CONSTRAINT subscription_burst_range CHECK (
                     burst BETWEEN 1 AND 100000 AND (burst IS NULL OR rate IS NOT NULL)),  -- how far above the rate a second may go; NULL: a tenth of it
    ordered      text        CONSTRAINT subscription_ordered_known CHECK (
                     ordered IN ('stop', 'skip')),                  -- events of a subject one after the other; behind a dead one: stop or skip it
    limited      boolean     GENERATED ALWAYS AS (
                     max_in_flight IS NOT NULL OR rate IS NOT NULL OR ordered IS NOT NULL) STORED,
    state        text        NOT NULL DEFAULT 'active' CONSTRAINT subscription_state_known CHECK (
                     state IN ('active', 'paused', 'disabled', 'removed')),
    state_reason text,                                              -- why it is paused or disabled
    revision     integer     NOT NULL DEFAULT 1,                    -- grows with each change; each attempt names the one it used
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX subscription_removed ON outbox.subscription (id) WHERE state = 'removed';

-- One row a pattern: the index that matching uses. Removed subscriptions have none.
CREATE TABLE outbox.subscription_type (
    pattern         text NOT NULL CONSTRAINT subscription_type_grammar CHECK (
                        length(pattern) <= 129
                        AND pattern ~ '^([A-Za-z0-9_-]+[./:])*([A-Za-z0-9_-]+|[A-Za-z0-9_-]*[*])$'),
    tenant          text NOT NULL,       -- '' stands for every tenant, so that matching is by equality only
    subscription_id uuid NOT NULL,
    PRIMARY KEY (pattern, tenant, subscription_id)
);
CREATE INDEX subscription_type_subscription ON outbox.subscription_type (subscription_id);

-- What was changed, when, by whom, and what the subscription was afterwards. No secrets.
CREATE TABLE outbox.subscription_change (
    id              uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    subscription_id uuid        NOT NULL,
    revision        integer     NOT NULL,
    change          text        NOT NULL,   -- added, paused, resumed, disabled, removed, …
    actor           text        NOT NULL,   -- the person or worker
    command         text        NOT NULL,   -- the command or function it came from
    after           jsonb       NOT NULL,   -- the subscription's row after the change
    changed_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (subscription_id, revision)
);

-- The keys that sign. Several may be live at once: all of them sign, newest first.
CREATE TABLE outbox.secret (
    id              uuid        PRIMARY KEY DEFAULT outbox.uuid7(),
    subscription_id uuid        NOT NULL,
    key_id          text,                                -- the key that sealed it; NULL: stored in clear
    sealed          text        NOT NULL,                -- the whsec_ secret, or its sealed form
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz                          -- signs until then, after a rotation; NULL: for good
);
CREATE INDEX secret_subscription ON outbox.secret (subscription_id);

-- A row only while nothing succeeds: what decides that a subscription is failing, and
-- in the end disabled.
CREATE TABLE outbox.subscription_health (
    subscription_id uuid        PRIMARY KEY,
    failing_since   timestamptz NOT NULL DEFAULT now(),  -- the first failure after the last success
    failures        integer     NOT NULL,                -- attempts that failed since then
    told_at         timestamptz                          -- when subscription.failing was emitted; NULL: not yet
);

-- The limits of subscriptions that have any. Whoever claims for one of them, or lets the
-- next of a subject go, holds the lock of its row: so they are exact across the fleet.
CREATE TABLE outbox.throttle (
    subscription_id uuid             PRIMARY KEY,
    tokens          double precision NOT NULL DEFAULT 0,      -- requests that the rate allowed at filled_at
    filled_at       timestamptz      NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- The claims of such subscriptions, which their limits count.
CREATE TABLE outbox.limited_claim (
    delivery_id     uuid        PRIMARY KEY,
    subscription_id uuid        NOT NULL,
    subject         text,                                -- of an ordered one: whose next may go when this has ended
    attempt         smallint    NOT NULL,                -- with it the fence, as in delivery_queue
    lease_until     timestamptz NOT NULL                 -- counted until then, should its worker be gone
);
CREATE INDEX limited_claim_subscription ON outbox.limited_claim (subscription_id);

-- Subjects that stand still because a delivery of an ordered subscription is dead.
CREATE TABLE outbox.blocked_subject (
    subscription_id uuid        NOT NULL,
    subject         text        NOT NULL,
    delivery_id     uuid        NOT NULL,                -- the dead one
    blocked_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, subject)
);


-- Matching ---------------------------------------------------------------------------
-- One definition of what matches, for fan-out and for every command that asks.

-- The patterns that match a type: itself, and each of its prefixes followed by *.
CREATE FUNCTION outbox.patterns(type text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN type || ARRAY(SELECT left(type, n) || '*' FROM generate_series(0, length(type)) AS n);

-- The subscriptions whose patterns and tenant fit; their filters are still to be asked.
-- `ours` says that the outbox itself emitted the event: a bare * does not mean those.
CREATE FUNCTION outbox.matching(type text, tenant text, ours boolean DEFAULT false)
    RETURNS TABLE (
        subscription_id uuid, filter jsonpath, first_delay double precision, limited boolean,
        ordered boolean)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT s.id, s.filter::jsonpath, coalesce(s.schedule[1], 0), s.limited, s.ordered IS NOT NULL
    FROM outbox.subscription s
    WHERE s.id IN (
        SELECT t.subscription_id FROM outbox.subscription_type t
        WHERE t.pattern = ANY (outbox.patterns(matching.type))
          AND t.tenant = ANY (ARRAY['', coalesce(matching.tenant, '')])
          AND NOT (matching.ours AND t.pattern = '*'));
END;

-- Whether data passes a filter: the path yields anything that is neither false nor null.
-- So `$.amount > 100` and `$.items[*] ? (@.price > 10)` both mean what they say. Errors
-- in a path's arithmetic or types are silent: they do not pass.
CREATE FUNCTION outbox.passes(data json, filter jsonpath) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN filter IS NULL OR EXISTS (
        SELECT FROM jsonb_path_query_tz(data::jsonb, filter, silent => true) AS found
        WHERE found NOT IN ('false'::jsonb, 'null'::jsonb));


-- What is to be delivered ------------------------------------------------------------

-- The duty to bring one event to one subscription. Its state is derived, never stored:
-- a row in delivery_queue makes it pending; else the attempt that ended it tells.
CREATE TABLE outbox.delivery (
    id              uuid NOT NULL DEFAULT outbox.uuid7(),
    event_id        uuid NOT NULL,
    subscription_id uuid NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX delivery_event ON outbox.delivery (event_id);
CREATE INDEX delivery_subscription ON outbox.delivery (subscription_id, id);

CREATE TABLE outbox.delivery_default PARTITION OF outbox.delivery DEFAULT;

-- The open deliveries. A delivery that ends is deleted here. No index holds a column
-- that a claim changes, so claims are HOT updates; the room for them is kept free.
CREATE TABLE outbox.delivery_queue (
    delivery_id     uuid        PRIMARY KEY,
    subscription_id uuid        NOT NULL,               -- its lane
    event_id        uuid        NOT NULL,
    subject         text,                               -- of the event, if the subscription is ordered; else NULL
    due_at          timestamptz NOT NULL,               -- when the next attempt may start, by the clock of the database;
                                                        -- infinity: after those before it of its subject
    lease_until     timestamptz,                        -- claimed until then; a claim whose lease ran out is free again
    lease_owner     integer,                            -- the life of the process that claimed it (worker.id)
    attempt         smallint    NOT NULL DEFAULT 0,     -- the number of the last attempt; with lease_owner the fence
    failures        smallint    NOT NULL DEFAULT 0,     -- attempts that the receiver or the way to it made fail: the place in the schedule
    CONSTRAINT delivery_queue_lease CHECK ((lease_until IS NULL) = (lease_owner IS NULL)),
    CONSTRAINT delivery_queue_counts CHECK (failures >= 0 AND attempt >= failures)
) WITH (
    fillfactor = 45,  -- a claim may take a whole page of rows at once: room for a second version of each
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05
);

-- The lanes: each subscription's open deliveries in the order in which they fall due.
CREATE INDEX delivery_queue_lane ON outbox.delivery_queue (subscription_id, due_at, delivery_id);

-- Of a subject of an ordered subscription one delivery may be sent at a time, its head;
-- the others wait in the order of their events.
CREATE UNIQUE INDEX delivery_queue_head ON outbox.delivery_queue (subscription_id, subject)
    WHERE subject IS NOT NULL AND due_at < 'infinity';
CREATE INDEX delivery_queue_order ON outbox.delivery_queue (subscription_id, subject, event_id)
    WHERE subject IS NOT NULL;


-- What became of it ------------------------------------------------------------------

-- Every attempt, and the end of every delivery. An attempt whose worker died has a row
-- `lost`, written by the one that took it over; what comes too late has a row `late`.
-- delivered, dead and cancelled end the delivery; no delivery has two such rows.
-- Partitioned by the delivery's id: a delivery's whole story lies in one partition.
CREATE TABLE outbox.attempt (
    delivery_id   uuid        NOT NULL,
    attempt       smallint    NOT NULL,                 -- numbered from 1; 0: cancelled before the first
    outcome       text        NOT NULL CONSTRAINT attempt_outcome_known CHECK (
                      outcome IN ('delivered', 'retry', 'dead', 'cancelled', 'lost', 'late')),
    worker_id     integer,                              -- the life of the process that made it; NULL: a person ended it
    revision      integer,                              -- of the subscription, as it was used
    started_at    timestamptz,
    duration_ms   integer,                              -- milliseconds from the start to the last byte read
    dns_ms        integer,                              -- of them to resolve the name; each phase is NULL if there was none
    connect_ms    integer,
    tls_ms        integer,
    first_byte_ms integer,                              -- from the connection to the first byte of the answer
    body_ms       integer,
    status        smallint,                             -- of the HTTP response; NULL: none came
    error_class   text,                                 -- dns connect tls timeout reset stale protocol blocked truncated internal
    error         text,                                 -- why it is not delivered, in a sentence
    response_body bytea,                                -- cut at 8 KiB; NULL: empty
    due_at        timestamptz,                          -- of the next attempt, after a retry
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivery_id, attempt, outcome),
    CONSTRAINT attempt_delivered_is_2xx CHECK (
        outcome <> 'delivered' OR coalesce(status, 0) BETWEEN 200 AND 299)
) PARTITION BY RANGE (delivery_id);

CREATE TABLE outbox.attempt_default PARTITION OF outbox.attempt DEFAULT;

-- The lives of worker processes. Not a fact: it tells who is there.
CREATE TABLE outbox.worker (
    id         integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,  -- a new one for each start: it never comes back
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),      -- the last heartbeat
    stopped_at timestamptz                              -- NULL: running, or killed if seen_at is old
);


-- Limits -----------------------------------------------------------------------------

-- Lets the next delivery of each given subject go, unless one of it is on its way or the
-- subject is blocked. Under the lock of the subscription's limits, and in statements of
-- their own after it, so that whoever comes next sees what was decided here.
CREATE FUNCTION outbox.promote(subscription_ids uuid[], subjects text[]) RETURNS integer
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
    WHERE q.delivery_id = next.delivery_id
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

-- Ends the claims of limited subscriptions whose attempts were recorded: they count no
-- more, and of an ordered one the next of the subject may go, or the subject is blocked
-- if this delivery is dead and the subscription says stop.
CREATE FUNCTION outbox.settle(delivery_ids uuid[], attempts smallint[]) RETURNS void
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
        WHERE c.delivery_id = g.delivery_id AND c.attempt = g.attempt
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


-- How a subscription fares -----------------------------------------------------------

-- Notes what happened to a subscription: so many more failures, or with none a success.
-- Tells the operator: `subscription.failing` once nothing but failures came for an hour,
-- at least five; `subscription.recovered` with the first success after that. The row of
-- its health stays locked: notes for many subscriptions are made in the order of their
-- ids, so that no two transactions wait in a circle.
CREATE FUNCTION outbox.note_health(subscription uuid, failed integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    health outbox.subscription_health;
    told   text;
BEGIN
    IF failed = 0 THEN
        DELETE FROM outbox.subscription_health h WHERE h.subscription_id = subscription
        RETURNING h.* INTO health;
        told := CASE WHEN health.told_at IS NOT NULL THEN 'subscription.recovered' END;
    ELSE
        INSERT INTO outbox.subscription_health AS h (subscription_id, failures)
        SELECT s.id, failed FROM outbox.subscription s WHERE s.id = subscription AND s.state <> 'removed'
        ON CONFLICT (subscription_id) DO UPDATE SET failures = h.failures + excluded.failures
        RETURNING h.* INTO health;
        IF health.told_at IS NULL AND health.failures >= 5
            AND health.failing_since <= now() - interval '1 h'
        THEN
            UPDATE outbox.subscription_health h SET told_at = now() WHERE h.subscription_id = subscription;
            told := 'subscription.failing';
        END IF;
    END IF;
    IF told IS NOT NULL THEN
        INSERT INTO outbox.event (type, subject, source, data)
        SELECT told, 'subscription/' || s.id, 'outbox', json_build_object(
            'subscription_id', s.id, 'tenant', s.tenant,
            'failing_since', health.failing_since, 'failures', health.failures)
        FROM outbox.subscription s WHERE s.id = subscription;
    END IF;
END
$$;

-- Tells the operator of deliveries that died, one `delivery.dead` for each.
CREATE FUNCTION outbox.tell_dead(deliveries json) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.event (type, subject, source, data)
    SELECT 'delivery.dead', 'subscription/' || d.subscription_id, 'outbox', json_build_object(
        'delivery_id', d.delivery_id, 'event_id', d.event_id, 'event_type', e.type,
        'tenant', e.tenant, 'subscription_id', d.subscription_id, 'attempts', d.attempt,
        'status', d.status, 'error_class', d.error_class, 'reason', d.error)
    FROM json_to_recordset(deliveries) AS d (
        delivery_id uuid, subscription_id uuid, event_id uuid, attempt smallint, status smallint,
        error_class text, error text)
    CROSS JOIN LATERAL (
        SELECT e.type, e.tenant FROM outbox.event e WHERE e.id = d.event_id LIMIT 1
    ) e;
END
$$;

-- Notes what a batch came to for one subscription: `failed` as note_health takes it, NULL
-- if there is nothing to note, and the deliveries that died, NULL if none did.
CREATE FUNCTION outbox.note_results(subscription uuid, failed integer, dead json) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF failed IS NOT NULL THEN
        PERFORM outbox.note_health(subscription, failed);
    END IF;
    IF dead IS NOT NULL THEN
        PERFORM outbox.tell_dead(dead);
    END IF;
END
$$;


-- Facts stay as they are -------------------------------------------------------------

CREATE FUNCTION outbox.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'outbox.% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

-- For each row: such triggers reach every partition, those to come as well.
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.event
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.event_key
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.delivery
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.attempt
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON outbox.subscription_change
    FOR EACH ROW EXECUTE FUNCTION outbox.refuse_change();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.event
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.event_key
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.delivery
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.attempt
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.subscription_change
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();

-- For each statement: each partition needs its own.
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.event_default
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.delivery_default
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.attempt_default
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change();


-- Partitions -------------------------------------------------------------------------

-- Makes the partitions of the facts for today (UTC) and the days ahead; returns how many
-- it made. Workers call it every hour. A new table is made first and then attached,
-- which lets hosts go on inserting; it waits no longer than two seconds for anyone, and
-- fails rather. A day whose rows already went to the DEFAULT partition is left there.
CREATE FUNCTION outbox.make_partitions(days_ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    SET lock_timeout = '2s' AS $$
DECLARE
    fact text;
    day  date;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('outbox.make_partitions', 0));
    FOREACH fact IN ARRAY ARRAY['event', 'delivery', 'attempt'] LOOP
        FOR ahead IN 0..days_ahead LOOP
            day := current_date + ahead;
            part := fact || to_char(day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass('outbox.' || part) IS NOT NULL;
            BEGIN
                EXECUTE format(
                    'CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
                    ' WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', part, fact);
                EXECUTE format(
                    'CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON outbox.%I'
                    ' FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_change()', part);
                EXECUTE format(
                    'ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)',
                    fact, part, outbox.uuid7_floor(day), outbox.uuid7_floor(day + 1));
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'outbox.%_default holds rows of %: its partition is not made', fact, day;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

SELECT outbox.make_partitions();

INSERT INTO outbox.schema_version (version) VALUES (2);
