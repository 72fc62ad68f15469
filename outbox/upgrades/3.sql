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
