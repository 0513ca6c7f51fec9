-- Who replayed dead letters, when, which and how many: a row for each run of `headrace dlq replay` that changed anything.

create table headrace.dead_letter_replays (
    number      bigint generated always as identity primary key,
    started_at  timestamptz not null,
    -- When its last letters so far were replayed: a run counts in the transactions that mark its letters.
    updated_at  timestamptz not null default now(),
    replayed_by text not null,
    -- What was asked for: codes, programs, numbers, limit, again.
    filter      jsonb not null,
    events      bigint not null,
    records     bigint not null,
    letters     bigint generated always as (events + records) stored
);

revoke all on headrace.dead_letter_replays from public;
