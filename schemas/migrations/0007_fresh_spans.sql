-- Fresh spans: between which event timestamps the newest events lie, which are in no span yet (migrations 0005 and 0006). At
-- 10,000 events/s these are 200,000, and a list of the newest within `event_from` and `event_to` walked all of them.
-- Figures and reasons: docs/decisions/0005-indexes-that-stay-cheap.md.
--
-- Who inserts events says so here, in the same transaction, for each quarter of a second in which they are created. So every
-- event that is in no span lies within the times of its quarter, or it was inserted by somebody who said nothing. That is
-- noticed: a fresh span up to `infinity`, an hour ahead since clocks differ, says that whatever is in no span may lie anywhere
-- until spans are made up to it. Likewise where the row from `-infinity` is missing: who has lost the table knows nothing.

create table headrace.fresh_spans (
    -- A quarter of a second begins.
    created_from timestamptz not null check (created_from = date_bin('250 ms', created_from, '2000-01-01+00')),
    -- The server process that inserted: so nobody waits for another.
    writer       integer not null,
    event_min    timestamptz not null,
    event_max    timestamptz not null check (event_max >= event_min),
    events       bigint not null,
    primary key (created_from, writer)
) with (fillfactor = 50);

-- Says that the events inserted in this transaction are created from `first` to `last`, and between which times they lie.
create function headrace.note_fresh(
    first timestamptz, last timestamptz, event_min timestamptz, event_max timestamptz, events bigint
) returns void language plpgsql as $$
begin
    insert into headrace.fresh_spans as f
    select quarter, pg_backend_pid(), note_fresh.event_min, note_fresh.event_max, note_fresh.events
    from generate_series(date_bin('250 ms', first, '2000-01-01+00'), last, interval '250 ms') quarter
    on conflict on constraint fresh_spans_pkey do update
    set event_min = least(f.event_min, excluded.event_min), event_max = greatest(f.event_max, excluded.event_max),
        events = f.events + excluded.events;
    perform set_config('headrace.fresh_noted', 'yes', true);
end
$$;

create function headrace.note_untold() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('headrace.fresh_noted', true), '') = '' and not exists (
        select from headrace.fresh_spans
        where created_from > statement_timestamp() + interval '30 minutes' and event_max = 'infinity'
    ) then
        insert into headrace.fresh_spans
        select date_bin('250 ms', clock_timestamp() + interval '1 hour', '2000-01-01+00'), pg_backend_pid(),
               '-infinity', 'infinity', 0
        on conflict (created_from, writer) do update set event_min = '-infinity', event_max = 'infinity';
    end if;
    return null;
end
$$;

-- Waits for the transactions that insert, so that none is missed.
create trigger events_untold after insert on headrace.events for each statement execute function headrace.note_untold();
alter table headrace.events enable always trigger events_untold;

-- Fresh spans of what is in spans are forgotten: where somebody removes spans, of their events nothing is told.
create trigger spans_removed after delete or truncate on headrace.spans
    for each statement execute function headrace.note_untold();

insert into headrace.fresh_spans values ('-infinity', 0, '-infinity', '-infinity', 0);
insert into headrace.fresh_spans
select date_bin('250 ms', clock_timestamp() + interval '1 hour', '2000-01-01+00'), 0, '-infinity', 'infinity', 0
where exists (select from headrace.events);

revoke all on headrace.fresh_spans from public;
