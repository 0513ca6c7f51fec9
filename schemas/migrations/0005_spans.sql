-- Spans: between which event timestamps the events of a stretch of creation time lie. By them a list that is sorted by the
-- one time and filtered by the other knows where to begin. Figures and reasons: docs/decisions/0005-indexes-that-stay-cheap.md.
--
-- Spans follow each other without a gap, from -infinity on, and hold some thousand events each. The newest events are in
-- no span: nobody knows between which times these lie. Every event that is created within a span lies within its times; they may
-- be wider than need be, never narrower.

create table headrace.spans (
    created_from timestamptz primary key,
    created_to   timestamptz not null check (created_to > created_from),
    event_min    timestamptz not null,
    event_max    timestamptz not null check (event_max >= event_min)
);

-- One row. Spans may be made up to `ripe_to`: who inserts an event created before that, and is not seen yet, widens the span.
create table headrace.spans_progress (
    only_row boolean primary key default true check (only_row),
    ripe_to  timestamptz not null default '-infinity',
    -- What becomes ripe once every transaction before `next_xid` has ended.
    next_to  timestamptz not null default '-infinity',
    next_xid xid8 not null default '0'
) with (fillfactor = 50);

insert into headrace.spans_progress default values;

-- An event created more than half a minute before its insertion (a clock is slow, a copy is restored) may fall into a span.
create function headrace.widen_span() returns trigger language plpgsql as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then  -- it would not see a span made since it began
        raise exception 'an event this late can be inserted at the isolation level read committed only';
    end if;
    -- Also where no span is there yet: either this waits for the one that is being made, or its making waits for this.
    lock table headrace.spans in row exclusive mode;
    update headrace.spans
    set event_min = least(event_min, new.event_timestamp), event_max = greatest(event_max, new.event_timestamp)
    where created_from = (select max(s.created_from) from headrace.spans s where s.created_from <= new.created_at)
      and created_to > new.created_at
      and not new.event_timestamp between event_min and event_max;
    return null;
end
$$;

create trigger events_late after insert on headrace.events for each row
    when (new.created_at < clock_timestamp() - interval '30 seconds') execute function headrace.widen_span();

-- Where a span that begins at `first` ends: as soon as some kind has had `events` events; null if none has by `ripe`.
create function headrace.span_end(first timestamptz, ripe timestamptz, events integer) returns timestamptz
language plpgsql as $$
declare
    kind  record;
    found timestamptz;
    cut   timestamptz;
begin
    for kind in  -- the common ones first: of the others no more is looked at than lies before the end found so far
        select s.status, t.event_type
        from unnest('{EXTERNAL,SYSTEM}'::headrace.event_type[]) t (event_type)
        cross join unnest('{COMPLETED,FAILED,PROCESSING,PENDING}'::headrace.status[]) s (status)
    loop
        found := (
            select e.created_at from headrace.events e
            where e.status = kind.status and e.event_type = kind.event_type
              and e.created_at >= first and e.created_at < coalesce(cut, ripe)
            order by e.created_at offset events limit 1
        );
        cut := coalesce(found, cut);
    end loop;
    -- Where there are more events at one moment than a span is to have, these are one.
    return case when exists (
        select from unnest('{EXTERNAL,SYSTEM}'::headrace.event_type[]) t (event_type)
        cross join unnest('{COMPLETED,FAILED,PROCESSING,PENDING}'::headrace.status[]) s (status)
        join headrace.events e
          on e.status = s.status and e.event_type = t.event_type and e.created_at >= first and e.created_at < cut
    ) then cut else cut + interval '1 microsecond' end;
end
$$;

-- Makes up to `spans_max` spans of some `events` events each, and tells how many it made.
create function headrace.make_spans(events integer, spans_max integer) returns integer
language plpgsql set lock_timeout = '200ms' as $$
declare
    ripe  timestamptz;
    first timestamptz;
    cut   timestamptz;
    made  integer := 0;
begin
    -- Before any of the statements below takes its snapshot: what a late event widens is then seen, or waits for this.
    lock table headrace.spans in share row exclusive mode;
    -- Who is not seen here and may still insert got its transaction's id after `next_xid` was noted. What it inserts is created
    -- after `next_to`, or late; the half minute between the two is for a server's clock that is set back.
    update headrace.spans_progress
    set ripe_to = case when next_xid <= pg_snapshot_xmin(pg_current_snapshot()) then next_to else ripe_to end,
        next_to = greatest(next_to, now() - interval '1 minute'),
        next_xid = pg_snapshot_xmax(pg_current_snapshot())
    where next_xid <= pg_snapshot_xmin(pg_current_snapshot())
       or next_xid > pg_snapshot_xmax(pg_current_snapshot())  -- restored from a server that counts otherwise
    ;
    select ripe_to into ripe from headrace.spans_progress;
    select coalesce(max(created_to), '-infinity') into first from headrace.spans;
    while made < spans_max loop
        cut := headrace.span_end(first, ripe, events);
        exit when cut is null;
        insert into headrace.spans (created_from, created_to, event_min, event_max)
        select first, cut, min(e.event_timestamp), max(e.event_timestamp)
        from unnest(enum_range(null::headrace.status)) s (status)
        cross join unnest(enum_range(null::headrace.event_type)) t (event_type)
        join headrace.events e
          on e.status = s.status and e.event_type = t.event_type and e.created_at >= first and e.created_at < cut;
        first := cut;
        made := made + 1;
    end loop;
    return made;
end
$$;

revoke all on headrace.spans, headrace.spans_progress from public;
