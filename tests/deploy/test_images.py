"""The image and the compose file, checked by what can be checked without a container engine."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import postgres as local_postgres
from deploy.local.postgres import Server
from schemas import settings
from tests import containers

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def test_compose_takes_the_official_images(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["kafka"]["image"] == containers.KAFKA_IMAGE == "apache/kafka:4.3.1"
    assert services["postgres"]["image"] == containers.POSTGRES_IMAGE == "postgres:18"
    own = {"migrate", "gateway", "worker"}
    assert services.keys() == own | {"kafka", "postgres"}
    for name in own:
        assert services[name]["build"] == {"context": ".", "dockerfile": "deploy/docker/Dockerfile"}
        assert services[name]["command"] == [name]


def test_compose_starts_in_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
    }
    for name in ("gateway", "worker"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    for name in ("kafka", "postgres", "gateway"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_compose_gives_postgres_what_the_local_one_has(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *options = compose["services"]["postgres"]["command"]
    given = {option.removeprefix("-c") for option in options}
    assert program == "postgres"
    assert "shared_buffers=1024MB" in given
    monkeypatch.setitem(local_postgres._SETTINGS, "shared_buffers", "1024MB")  # noqa: SLF001 - whatever this machine has
    command = local_postgres.spec(tmp_path, tmp_path, Server(5432, "")).command
    assert given <= set(command), "set where no container is, too"
    costs = ("max_wal_size=", "checkpoint_timeout=", "random_page_cost=", "jit=", "max_connections=", "shared_buffers=")
    assert {option for option in command if option.startswith(costs)} == given


def test_compose_volumes_and_ports(compose: dict[str, Any]) -> None:
    mounted = {part.split(":")[0] for service in compose["services"].values() for part in service.get("volumes", [])}
    assert mounted == compose["volumes"].keys()
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_sets_only_what_exists(compose: dict[str, Any]) -> None:
    known = {row[0] for row in settings.describe()}
    for service in compose["services"].values():
        given = {name for name in service["environment"] if name.startswith("HEADRACE_")}
        assert given <= known
    values = {**compose["services"]["worker"]["environment"], "HEADRACE_PARTITIONS": "12"}
    assert settings.load(values).kafka == "kafka:9092"


def test_docker_itself_takes_the_compose_file() -> None:
    """Where the plugin is installed; elsewhere the tests above stand for it."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        command = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_image_has_two_stages_of_one_pinned_base() -> None:
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])


def test_image_runs_as_an_ordinary_user_with_a_health_check() -> None:
    last_stage = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD \[", last_stage, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["headrace"\]$', last_stage, re.MULTILINE)
    words = [word for word, _ in _instructions()]
    assert "ADD" not in words
    assert "MAINTAINER" not in words


def test_image_installs_by_hash_and_gets_all_it_copies() -> None:
    assert "--require-hashes" in DOCKERFILE
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for word, rest in _instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_image_sets_only_what_exists() -> None:
    known = {row[0] for row in settings.describe()}
    assert set(re.findall(r"HEADRACE_[A-Z_]+", DOCKERFILE)) <= known
