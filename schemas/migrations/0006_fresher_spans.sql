-- Spans of events older than 20 seconds, where it was a minute: a list of the newest within `event_from` and `event_to` walks
-- all that is in no span yet. Figures and reasons: docs/decisions/0005-indexes-that-stay-cheap.md.

-- An event created more than ten seconds before its insertion (a clock is slow, a copy is restored) may fall into a span.
create or replace trigger events_late after insert on headrace.events for each row
    when (new.created_at < clock_timestamp() - interval '10 seconds') execute function headrace.widen_span();

-- Makes up to `spans_max` spans of some `events` events each, and tells how many it made.
create or replace function headrace.make_spans(events integer, spans_max integer) returns integer
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
    -- after `next_to`, or late; the ten seconds between the two are for a server's clock that is set back.
    update headrace.spans_progress
    set ripe_to = case when next_xid <= pg_snapshot_xmin(pg_current_snapshot()) then next_to else ripe_to end,
        next_to = greatest(next_to, now() - interval '20 seconds'),
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
