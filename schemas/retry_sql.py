"""How a FAILED event gets another round of attempts: the one statement for whoever asks for it.

A worker sends the planned attempt to the topic of retries when it is due, as it does with those of its own.
"""

from typing import LiteralString

# Takes `ids` (uuid[]) and `records` (bytea[], each event's canonical JSON); gives the ids of those that were FAILED.
# In the order of ids, as the processors do it, so that no two wait for each other in a circle.
PLAN_ATTEMPTS: LiteralString = """
with locked as (
    select id from headrace.events where id = any(%(ids)s::uuid[]) and status = 'FAILED' order by id for update
), again as (
    update headrace.events e
    set status = 'PENDING', attempts = 0, error_code = null, error_message = null, result = null, processed_at = null,
        updated_at = now(), failed_before = true
    from locked where e.id = locked.id
    returning e.id, e.kafka_partition, e.program_id
)
insert into headrace.retries (id, kafka_partition, program_id, attempt, not_before, record)
select again.id, kafka_partition, program_id, 1, now(), record
from again join unnest(%(ids)s::uuid[], %(records)s::bytea[]) as wanted (id, record) on wanted.id = again.id
on conflict (id) do update set attempt = 1, not_before = now(), sent_at = null
returning id
"""
