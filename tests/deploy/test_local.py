"""The local Kafka and Postgres: what they keep, what they refuse."""

import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.local import kafka, kafka_jars, ports, postgres

COORDINATE = "org.example:thing:1.0"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file of one jar, whose content is the word "right"; the jar is in place."""
    path = tmp_path / "kafka.lock.toml"
    jar = kafka_jars.path_of(COORDINATE, tmp_path / "jars")
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"right")
    path.write_text(f'[jars]\n"{COORDINATE}" = "{hashlib.sha256(b"right").hexdigest()}"\n')
    return path


def test_jar_as_locked_is_taken(lock: Path, tmp_path: Path) -> None:
    jar = tmp_path / "jars" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    assert kafka_jars.install(tmp_path / "jars", lock) == [jar]


def test_tampered_jar_is_one_clear_line(lock: Path, tmp_path: Path) -> None:
    jar = kafka_jars.path_of(COORDINATE, tmp_path / "jars")
    jar.write_bytes(b"wrong")
    with pytest.raises(DeployError) as caught:
        kafka_jars.install(tmp_path / "jars", lock)
    told = "thing-1.0.jar differs from what kafka.lock.toml says (SHA-256)"
    assert str(caught.value) == f"{told}: delete {jar} and run `make setup` again"


def test_lock_file_names_this_broker() -> None:
    jars = kafka_jars.read_lock()
    own = [name for name in jars if name.startswith("org.apache.kafka:")]
    assert f"org.apache.kafka:kafka_2.13:{kafka_jars.KAFKA_VERSION}" in own
    assert {name.rsplit(":", 1)[1] for name in own} == {kafka_jars.KAFKA_VERSION}
    assert all(len(sha256) == 64 for sha256 in jars.values())


def test_ports_are_kept_while_free() -> None:
    first = ports.pick(3)
    assert len(set(first)) == 3
    assert ports.pick(3, keep=first) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[0]))
        taken.listen()
        again = ports.pick(3, keep=first)
    assert first[0] not in again
    assert again[:2] == first[1:]


def test_a_port_is_given_once_although_nobody_listens_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ports.pick(2)
    monkeypatch.setattr(ports, "_given", set())
    dice = iter([one, one, other])
    monkeypatch.setattr("random.randint", lambda *_: next(dice))
    assert (ports.pick(1), ports.pick(1)) == ([one], [other])


def test_second_start_finds_the_same_cluster(tmp_path: Path) -> None:
    first = kafka.prepare(tmp_path / "kafka", brokers=3)
    assert (first.brokers, first.replication_factor, len(first.bootstrap.split(","))) == (3, 3, 3)
    assert kafka.prepare(tmp_path / "kafka") == first
    properties = (tmp_path / "kafka" / "broker-2.properties").read_text().splitlines()
    assert {"node.id=3", "min.insync.replicas=2", "default.replication.factor=3"} <= set(properties)
    with pytest.raises(DeployError, match=r"are of 3 broker\(s\), not 1: choose another --data"):
        kafka.prepare(tmp_path / "kafka", brokers=1)


def test_second_start_finds_the_same_server_in_a_closed_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "postgres"
    first = postgres.prepare(folder)
    assert len(first.password) >= 32
    assert stat.S_IMODE((folder / "server.json").stat().st_mode) == 0o600
    assert not (folder / "password").exists()
    if os.geteuid() == 0:
        assert (folder / "data").stat().st_uid != 0
    # The lock that a killed server leaves, with a pid that now belongs to this very test.
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder / 'data'}\n")
    assert postgres.prepare(folder) == first
    assert not (folder / "data" / "postmaster.pid").exists()
