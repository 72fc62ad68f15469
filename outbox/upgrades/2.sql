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
