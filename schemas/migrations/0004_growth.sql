-- Indexes whose cost does not grow with the table. Figures and reasons: docs/decisions/0005-indexes-that-stay-cheap.md.
--
-- A btree over random values is cheap to insert into while it fits into memory and its pages were written to the WAL since
-- the last checkpoint already; past some million rows every insert touches a page for the first time, and writes all of it.
-- So each index but the primary key takes new rows in few places:
--   * by `created_at`, which only rises, so that a list's newest end is where rows are added;
--   * or within an `era`: some hundred thousand events that came one after the other. Queries visit the eras one by one,
--     a few microseconds each.
-- `status` and `event_type` stand before the sort column: a page reads what it shows and no more, however rare the value.
-- What stands behind `include` lets a condition on it be checked without reading the row.

alter table headrace.events
    -- 65,536 offsets of each partition: with 12 partitions some 800,000 events.
    add column era integer not null generated always as (least(kafka_offset >> 16, 2147483647)::integer) stored;

drop index headrace.events_created;
drop index headrace.events_event_timestamp;
drop index headrace.events_program_created;
drop index headrace.events_program_event_timestamp;
drop index headrace.events_external;
drop index headrace.events_participant;
drop index headrace.events_recipient;
drop index headrace.events_idempotency_key;
drop index headrace.events_not_completed;

create index events_created on headrace.events (status, event_type, created_at, id) include (event_timestamp);
create index events_event_timestamp on headrace.events (era, status, event_type, event_timestamp, id)
    include (created_at);
create index events_program_created on headrace.events (program_id, status, event_type, created_at, id)
    include (event_timestamp);
create index events_program_event_timestamp
    on headrace.events (era, program_id, status, event_type, event_timestamp, id) include (created_at);
create index events_participant on headrace.events (era, participant_id, created_at, id)
    include (event_timestamp, program_id, status, event_type) where participant_id is not null;
create index events_external on headrace.events (era, external_id, created_at, id)
    include (event_timestamp, program_id, status, event_type) where external_id is not null;
create index events_recipient on headrace.events (era, recipient_id, created_at, id)
    include (event_timestamp, program_id, status, event_type) where recipient_id is not null;
-- Keys are compared by their hash first: 16 bytes an entry whatever their length. It also tells which eras there are.
create index events_idempotency_key on headrace.events (era, hashtext(idempotency_key));

-- When a participant that had no name got one: the handler that remembers participants tells by it what has come to stand.
alter table headrace.participants add column named_at timestamptz;
