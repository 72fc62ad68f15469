-- From version 1 to 2: how a subscription's requests look and are signed, its limits,
-- its health, and the phases of an attempt. schema.sql says what each column is for.

ALTER TABLE outbox.subscription
    ADD COLUMN method text NOT NULL DEFAULT 'POST' CONSTRAINT subscription_method_known CHECK (
        method IN ('POST', 'PUT', 'PATCH')),
    ADD COLUMN format text NOT NULL DEFAULT 'standard' CONSTRAINT subscription_format_known CHECK (
        format IN ('standard', 'cloudevents', 'cloudevents-binary', 'raw', 'casdoor', 'logto')),
    ADD COLUMN schemes text[] NOT NULL DEFAULT '{standard}' CONSTRAINT subscription_has_schemes CHECK (
        cardinality(schemes) > 0),
    ADD COLUMN user_agent text,
    ADD COLUMN timeout double precision CONSTRAINT subscription_timeout_range CHECK (
        timeout BETWEEN 0.1 AND 300),
    ADD COLUMN max_age double precision CONSTRAINT subscription_max_age_range CHECK (
        max_age BETWEEN 1 AND 31622400),
    ADD COLUMN max_in_flight integer CONSTRAINT subscription_max_in_flight_range CHECK (
        max_in_flight BETWEEN 1 AND 10000),
    ADD COLUMN rate double precision CONSTRAINT subscription_rate_range CHECK (
        rate BETWEEN 0.001 AND 100000),
    ADD COLUMN burst integer CONSTRAINT subscription_burst_range CHECK (
        burst BETWEEN 1 AND 100000 AND (burst IS NULL OR rate IS NOT NULL)),
    ADD COLUMN ordered text CONSTRAINT subscription_ordered_known CHECK (
        ordered IN ('stop', 'skip'));
ALTER TABLE outbox.subscription
    ADD COLUMN limited boolean GENERATED ALWAYS AS (
        max_in_flight IS NOT NULL OR rate IS NOT NULL OR ordered IS NOT NULL) STORED;

CREATE TABLE outbox.subscription_health (
    subscription_id uuid        PRIMARY KEY,
    failing_since   timestamptz NOT NULL DEFAULT now(),  -- the first failure after the last success
    failures        integer     NOT NULL,                -- attempts that failed since then
    told_at         timestamptz                          -- when subscription.failing was emitted; NULL: not yet
);

CREATE TABLE outbox.throttle (
    subscription_id uuid             PRIMARY KEY,
    tokens          double precision NOT NULL DEFAULT 0,      -- requests that the rate allowed at filled_at
    filled_at       timestamptz      NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE outbox.limited_claim (
    delivery_id     uuid        PRIMARY KEY,
    subscription_id uuid        NOT NULL,
    subject         text,                                -- of an ordered one: whose next may go when this has ended
    attempt         smallint    NOT NULL,                -- with it the fence, as in delivery_queue
    lease_until     timestamptz NOT NULL                 -- counted until then, should its worker be gone
);
CREATE INDEX limited_claim_subscription ON outbox.limited_claim (subscription_id);

CREATE TABLE outbox.blocked_subject (
    subscription_id uuid        NOT NULL,
    subject         text        NOT NULL,
    delivery_id     uuid        NOT NULL,                -- the dead one
    blocked_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, subject)
);

ALTER TABLE outbox.delivery_queue ADD COLUMN subject text;
CREATE UNIQUE INDEX delivery_queue_head ON outbox.delivery_queue (subscription_id, subject)
    WHERE subject IS NOT NULL AND due_at < 'infinity';
CREATE INDEX delivery_queue_order ON outbox.delivery_queue (subscription_id, subject, event_id)
    WHERE subject IS NOT NULL;

ALTER TABLE outbox.attempt
    ADD COLUMN dns_ms integer, ADD COLUMN connect_ms integer, ADD COLUMN tls_ms integer,
    ADD COLUMN first_byte_ms integer, ADD COLUMN body_ms integer;

DROP FUNCTION outbox.matching(text, text);
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
