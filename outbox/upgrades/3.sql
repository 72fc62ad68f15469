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
