-- The events and what stands around them. Every table is in the schema "headrace"; analysts read the views of 0002.

create schema if not exists headrace;

create type headrace.status as enum ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED');
create type headrace.event_type as enum ('EXTERNAL', 'SYSTEM');

-- One row per event. The primary key is the last judge of what is an event's first record.
create table headrace.events (
    id                    uuid primary key,
    program_id            uuid not null,
    idempotency_key       text not null,
    fingerprint           uuid not null,
    event_timestamp       timestamptz not null,
    external_id           text,
    participant_id        uuid,
    recipient_external_id text,
    recipient_id          uuid,
    event_data            jsonb not null,
    status                headrace.status not null,
    event_type            headrace.event_type not null,
    error_code            text,
    error_message         text,
    attempts              integer not null,
    duplicate_count       integer not null default 0,
    conflicts             jsonb,
    result                jsonb,
    received_at           timestamptz not null,
    created_at            timestamptz not null,
    updated_at            timestamptz not null,
    processed_at          timestamptz,
    -- Which record won, and up to which record duplicates and conflicts are counted: a record read again changes nothing.
    kafka_partition       integer not null,
    kafka_offset          bigint not null,
    counted_offset        bigint not null,
    -- Somebody asked for it to be tried again after it had FAILED.
    failed_before         boolean not null default false
) with (fillfactor = 90, toast_tuple_target = 2048);

create index events_created on headrace.events (created_at, id);
create index events_event_timestamp on headrace.events (event_timestamp, id);
create index events_program_created on headrace.events (program_id, created_at, id);
create index events_program_event_timestamp on headrace.events (program_id, event_timestamp, id);
create index events_external on headrace.events (external_id, created_at, id) where external_id is not null;
create index events_participant on headrace.events (participant_id, created_at, id) where participant_id is not null;
create index events_recipient on headrace.events (recipient_id, created_at, id) where recipient_id is not null;
create index events_idempotency_key on headrace.events (idempotency_key);
create index events_not_completed on headrace.events (status, created_at, id) where status <> 'COMPLETED';

-- Who may send which payload under which id, before Kafka has it. Unlogged: after a crash of Postgres the processors judge.
create unlogged table headrace.claims (
    id              uuid primary key,
    fingerprint     uuid not null,
    kafka_partition integer not null,
    claimed_at      timestamptz not null default now(),
    record          bytea not null
) with (fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index claims_claimed on headrace.claims (claimed_at);

-- How far each partition has been processed. `caught_up_at`: every record acknowledged before this has been processed.
create table headrace.progress (
    topic           text not null,
    kafka_partition integer not null,
    next_offset     bigint not null,
    end_offset      bigint not null,
    record_at       timestamptz,
    caught_up_at    timestamptz not null,
    updated_at      timestamptz not null,
    primary key (topic, kafka_partition)
) with (fillfactor = 50);

-- Failing events that wait for their next attempt. A row leaves in the transaction that ends or repeats the attempt.
create table headrace.retries (
    id              uuid primary key,
    kafka_partition integer not null,
    program_id      uuid not null,
    attempt         integer not null,
    not_before      timestamptz not null,
    sent_at         timestamptz,
    record          bytea not null
);

create index retries_due on headrace.retries (not_before);

create table headrace.dead_letter_records (
    number          bigint generated always as identity primary key,
    code            text not null,
    reason          text not null,
    topic           text not null,
    kafka_partition integer not null,
    kafka_offset    bigint not null,
    program_id      uuid,
    event_id        uuid,
    record_key      bytea,
    record_value    bytea,
    record_headers  jsonb not null default '[]',
    first_seen_at   timestamptz not null,
    replayed_at     timestamptz,
    replayed_by     text,
    unique (topic, kafka_partition, kafka_offset, first_seen_at)
);

create index dead_letter_records_program on headrace.dead_letter_records (program_id, number);
create index dead_letter_records_code on headrace.dead_letter_records (code, number);

create table headrace.api_keys (
    key_sha256  bytea primary key,
    name        text not null,
    scopes      text[] not null,
    program_ids uuid[],
    -- Events per second that this key may send; null: HEADRACE_RATE_EVENTS_PER_S, 0: no limit.
    rate_events_per_s double precision check (rate_events_per_s >= 0),
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

-- Which programs there are, where the setting HEADRACE_PROGRAMS is "registered".
create table headrace.programs (
    program_id  uuid primary key,
    name        text not null,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    disabled_at timestamptz
);

create index programs_updated on headrace.programs (updated_at);

-- What is left of each key's rate, shared by all gateways. Unlogged: after a crash of Postgres every key starts full.
create unlogged table headrace.rate_buckets (
    key_sha256 bytea primary key,
    events     double precision not null,
    updated_at timestamptz not null
) with (fillfactor = 50);

-- Fills a key's bucket up to now, then takes what is wanted, or what there is if that is at least what is needed.
create function headrace.take_events(
    key bytea, rate double precision, burst double precision, needed double precision, wanted double precision,
    out granted double precision, out remaining double precision
) language plpgsql as $$
declare
    bucket headrace.rate_buckets;
    present double precision;
begin
    insert into headrace.rate_buckets values (key, burst, clock_timestamp()) on conflict do nothing;
    select * into bucket from headrace.rate_buckets where key_sha256 = key for update;
    present := least(
        burst, bucket.events + rate * greatest(0, extract(epoch from clock_timestamp() - bucket.updated_at))
    );
    granted := case when present >= needed then least(present, wanted) else 0 end;
    remaining := present - granted;
    update headrace.rate_buckets set events = remaining, updated_at = clock_timestamp() where key_sha256 = key;
end
$$;

-- The two built-in handlers' tables.
create table headrace.participants (
    program_id     uuid not null,
    participant_id uuid not null,
    external_id    text,
    first_event_id uuid not null,
    created_at     timestamptz not null,
    primary key (program_id, participant_id),
    unique (program_id, external_id)
);

create table headrace.hourly (
    program_id uuid not null,
    hour       timestamptz not null,
    status     headrace.status not null,
    events     bigint not null,
    primary key (program_id, hour, status)
) with (fillfactor = 50);

-- Small values that every process of one installation shares.
create table headrace.meta (
    name  text primary key,
    value bytea not null
);

insert into headrace.meta (name, value)
values ('cursor_secret', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
