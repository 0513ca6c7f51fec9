"""What can happen to the dedupe table: its folder gone, cut, of an earlier run or of another worker; its changelog too.

Each time a worker has run before and stopped in order, its table lies on the disk, then something happens to it. The
next worker meets repeats and conflicts of all that was ever sent, and none may be judged wrongly.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import PolicyViolationError

from deploy import migrate
from processors import exits
from schemas.settings import Settings
from schemas.topics import changelog
from tests.conftest import PARTITIONS
from tests.crash.world import World
from tests.stack import Stack, wait_until

RECORDS = 300

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


class Scene:
    """A world, and the folders of its worker."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tables = world.stack.folder / "tables"
        self.folder = self.tables / "worker-0"
        self.earlier = world.stack.folder / "earlier"

    def work(self, number: int = 0) -> None:
        """Let a worker process some traffic, and stop it in order."""
        self.world.publish(RECORDS)
        self.world.start_worker(number)
        self.world.wait()
        self.world.stack.stop_worker(number)

    def files(self, prefix: str, suffix: str = "") -> list[Path]:
        """Files of the table."""
        found = [path for path in self.folder.rglob(f"{prefix}*{suffix}") if path.is_file()]
        assert found, f"there is no {prefix}*{suffix} under {self.folder}"
        return found


@pytest.fixture(scope="module")
def module_scene(shared_stack: Stack) -> Iterator[Scene]:
    """A worker has run."""
    shared_stack.stop()
    scene = Scene(World(shared_stack, seed=2_718))
    scene.work()
    yield scene
    shared_stack.stop()


@pytest.fixture
def scene(module_scene: Scene) -> Iterator[Scene]:
    """The same, with nothing running."""
    yield module_scene
    module_scene.world.stack.stop()


def _deleted(scene: Scene) -> None:
    shutil.rmtree(scene.folder)


def _tables_cut(scene: Scene) -> None:
    for path in scene.files("", ".sst"):
        os.truncate(path, path.stat().st_size // 2)


def _manifest_cut(scene: Scene) -> None:
    for path in scene.files("MANIFEST"):
        os.truncate(path, 10)  # in its first record: cut behind a later one, it is a sound one of an earlier time


def _earlier_run(scene: Scene) -> None:
    shutil.copytree(scene.folder, scene.earlier)
    scene.work()
    shutil.rmtree(scene.folder)
    shutil.move(scene.earlier, scene.folder)


def _another_worker(scene: Scene) -> None:
    scene.work(number=7)
    shutil.rmtree(scene.folder)
    shutil.move(scene.tables / "worker-7", scene.folder)


def _changelog_made_anew(scene: Scene) -> None:
    _delete_changelog(scene)
    _migrate(scene)


def _changelog_cut(scene: Scene) -> None:
    """With the folder gone too, all that was in the first records is forgotten."""
    shutil.rmtree(scene.folder)
    asyncio.run(_cut_changelog(scene.world.stack.kafka))


FAULTS = [_deleted, _tables_cut, _manifest_cut, _earlier_run, _another_worker]
CHANGELOG_FAULTS = [_changelog_made_anew, _changelog_cut]


@pytest.mark.parametrize("fault", [*FAULTS, *CHANGELOG_FAULTS], ids=lambda fault: fault.__name__.strip("_"))
def test_whatever_happens_to_the_table_every_record_is_judged_rightly(
    scene: Scene, fault: Callable[[Scene], None]
) -> None:
    fault(scene)
    scene.world.publish(RECORDS)
    log = scene.world.stack.folder / "logs" / "worker-0.log"
    said = log.stat().st_size
    worker = scene.world.start_worker(wait=False)
    wait_until(lambda: scene.world.settled() or worker.exit_code() is not None, "settled, or damage found", 60)
    if worker.exit_code() is not None:  # damage that shows only when it is read, and is mended by the next start
        assert fault is _tables_cut
        assert worker.exit_code() == exits.TABLE, worker.failure()
        scene.world.stack.kill_worker()
        scene.world.start_worker(wait=False)
        scene.world.wait()
    scene.world.check()
    noticed = "wiped" in log.read_text()[said:]
    assert noticed == (fault in {_tables_cut, _manifest_cut, _changelog_made_anew})


def test_without_its_changelog_a_worker_ends_and_says_what_makes_it_anew(scene: Scene) -> None:
    _delete_changelog(scene)
    scene.world.publish(RECORDS)
    worker = scene.world.start_worker(wait=False)
    assert worker.wait(30)
    assert worker.exit_code() == exits.CONFIGURATION
    assert "topics must exist with equal partitions (headrace migrate)" in worker.failure()
    scene.world.stack.kill_worker()
    _migrate(scene)
    scene.world.start_worker()
    scene.world.wait()
    scene.world.check()


def _migrate(scene: Scene) -> None:
    stack = scene.world.stack
    settings = Settings(kafka=stack.kafka, database_url=stack.database_url, partitions=PARTITIONS)
    assert migrate.run(settings).topics_created == [changelog(scene.world.group)]


def _delete_changelog(scene: Scene) -> None:
    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=scene.world.stack.kafka)
        await admin.start()
        try:
            await admin.delete_topics([changelog(scene.world.group)])
            while changelog(scene.world.group) in await admin.list_topics():  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.1)
        finally:
            await admin.close()

    asyncio.run(asyncio.wait_for(delete(), 30))


async def _cut_changelog(kafka: str) -> None:
    """Delete the first half of its records, which a compacted topic allows only while it may delete."""
    topic = changelog("headrace")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        for policy in ("compact,delete", "compact"):
            config = ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": policy})
            await admin.alter_configs([config])
            if policy == "compact":
                break
            ends = await _changelog_ends(kafka, topic)
            wanted = {tp: RecordsToDelete(end // 2) for tp, end in ends.items() if end}
            assert wanted
            await asyncio.wait_for(_delete(admin, wanted), 30)
    finally:
        await admin.close()


async def _delete(admin: AIOKafkaAdminClient, wanted: dict[TopicPartition, RecordsToDelete]) -> None:
    """Delete records, as soon as the broker has heard that it may."""
    while True:
        try:
            await admin.delete_records(wanted)
        except PolicyViolationError:
            await asyncio.sleep(0.1)
        else:
            return


async def _changelog_ends(kafka: str, topic: str) -> dict[TopicPartition, int]:
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(
            [TopicPartition(topic, number) for number in range(PARTITIONS)]
        )
        return ends
