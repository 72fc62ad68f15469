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
    facts  constant text[] := ARRAY['event', 'event_key', 'delivery', 'attempt', 'subscription_change'];
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
            ' outbox.subscription_health, outbox.throttle, outbox.worker, outbox.replay TO %I', grantee);
        EXECUTE format('GRANT SELECT ON outbox.subscription, outbox.subscription_type,'
            ' outbox.secret, outbox.schema_version TO %I', grantee);
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
        EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.make_partitions(integer) TO %I', grantee);
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

-- Makes tables, so only for those whose duty it is.
ALTER FUNCTION outbox.make_partitions(integer) SECURITY DEFINER;
REVOKE EXECUTE ON FUNCTION outbox.make_partitions(integer) FROM PUBLIC;
