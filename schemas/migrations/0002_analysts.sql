-- What analysts read: four views, and a role that can read these and nothing else.

create view headrace.event_status as
select id, program_id, idempotency_key, event_timestamp, external_id, participant_id, recipient_external_id, recipient_id,
       event_data, status, event_type, error_code, error_message, attempts, duplicate_count,
       coalesce(conflicts, '[]'::jsonb) as conflicts, result, received_at, created_at, updated_at, processed_at
from headrace.events;

create view headrace.program_hourly as
select program_id, hour, status, events from headrace.hourly;

create view headrace.dead_letters as
select number, code, reason, topic, kafka_partition, kafka_offset, program_id, event_id, record_key, record_value,
       record_headers, first_seen_at, replayed_at, replayed_by
from headrace.dead_letter_records;

create view headrace.pipeline_lag as
select topic, kafka_partition, end_offset, next_offset as processed_offset, greatest(end_offset - next_offset, 0) as lag,
       case when end_offset <= next_offset then 0
            else extract(epoch from now() - coalesce(record_at, nullif(caught_up_at, '-infinity'))) end::double precision
            as seconds_behind,
       updated_at
from headrace.progress;

comment on view headrace.event_status is 'One row per event; its columns are the fields of GET /v1/events/{id}.';
comment on view headrace.program_hourly is 'Events by program, by hour of event_timestamp (UTC) and by final status.';
comment on view headrace.dead_letters is 'Records and events that could not be processed, with code and reason.';
comment on view headrace.pipeline_lag is 'Per partition: end offset, processed offset, lag in records, seconds behind.';

do $$
begin
    create role headrace_analyst nologin;
exception
    when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema headrace to headrace_analyst;
grant select on headrace.event_status, headrace.program_hourly, headrace.dead_letters, headrace.pipeline_lag
    to headrace_analyst;
