"""The jars of a Kafka broker: fetched by coordinates, checked against the lock file beside this module.

They live in the virtual environment, so that removing it removes them, and nothing is left in the home folder.
"""

import hashlib
import shutil
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
import truststore
from jgo.maven import Dependency, MavenContext, PythonResolver

from deploy.errors import DeployError

KAFKA_VERSION = "4.3.1"
LOCK = Path(__file__).with_name("kafka.lock.toml")
_LOG4J_VERSION = "2.25.4"
_DOWNLOADS_AT_ONCE = 8
_TIMEOUT_S = 30
_TRIES = 3


def home() -> Path:
    """Where the jars are kept, as a Maven repository's folders."""
    return Path(sys.prefix) / "share" / "headrace" / "jars"


def _context(folder: Path) -> MavenContext:
    truststore.inject_into_ssl()  # the machine's own certificates, as pip takes them: some networks have their own
    return MavenContext(repo_cache=folder, resolver=PythonResolver(), timeout=_TIMEOUT_S)


def read_lock(lock: Path = LOCK) -> dict[str, str]:
    """SHA-256 by coordinate, ``group:artifact:version``, in the order of the class path."""
    jars: dict[str, str] = tomllib.loads(lock.read_text(encoding="utf-8"))["jars"]
    return jars


def path_of(coordinate: str, folder: Path) -> Path:
    """Where the jar of `coordinate` lies below `folder`."""
    group, artifact, version = coordinate.split(":")
    return folder.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(coordinate: str, folder: Path) -> None:
    """Download one jar into `folder`, next to its place first, so that an interruption leaves no half jar."""
    context = _context(folder / ".partial")
    target = path_of(coordinate, folder)
    for left in reversed(range(_TRIES)):
        path_of(coordinate, context.repo_cache).unlink(missing_ok=True)
        try:
            got = context.create_dependency(coordinate).artifact.resolve()
            break
        except (requests.RequestException, RuntimeError) as error:  # jgo says "not found" as a RuntimeError
            if not left:
                raise DeployError(
                    f"Kafka's jar {coordinate} cannot be downloaded: check the network and run `make setup` again"
                    f" ({type(error).__name__})"
                ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    got.replace(target)


def _check(coordinate: str, sha256: str, folder: Path) -> None:
    path = path_of(coordinate, folder)
    if _sha256(path) != sha256:
        raise DeployError(
            f"{path.name} differs from what {LOCK.name} says (SHA-256): delete {path} and run `make setup` again"
        )


def install(folder: Path | None = None, lock: Path = LOCK) -> list[Path]:
    """Bring every jar of the lock file here that is not yet, check all sums, and give the class path.

    Raises :class:`DeployError` when a jar cannot be had or its sum is another than the lock file's.
    """
    folder = folder or home()
    jars = read_lock(lock)
    missing = [coordinate for coordinate in jars if not path_of(coordinate, folder).exists()]
    try:
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(lambda coordinate: _fetch(coordinate, folder), missing))
            list(pool.map(lambda coordinate: _check(coordinate, jars[coordinate], folder), jars))
    except OSError as error:
        raise DeployError(f"Kafka's jars cannot be kept in {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(folder / ".partial", ignore_errors=True)
    return [path_of(coordinate, folder) for coordinate in jars]


def _coordinates(dependencies: Iterable[Dependency]) -> list[str]:
    return [f"{found.groupId}:{found.artifactId}:{found.version}" for found in dependencies]


def write_lock(folder: Path) -> None:
    """Resolve the broker's jars anew and write the lock file; `folder` takes the downloads. For `make lock`."""
    context = _context(folder)
    # Connect is no part of a broker, and pulls in a web server.
    connect = [context.project("org.apache.kafka", "connect-runtime")]
    wanted = [
        context.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"),
        context.create_dependency(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", exclusions=connect),
        # "!": its own choice of versions (an older Kafka client among them) must not rule over the broker's.
        context.create_dependency(f"org.apache.logging.log4j:log4j-slf4j-impl:{_LOG4J_VERSION}!"),
    ]
    inputs, transitive = context.resolver.resolve(wanted)
    for found in (*inputs, *transitive):
        found.artifact.resolve()
    lines = [
        f'"{coordinate}" = "{_sha256(path_of(coordinate, folder))}"'
        for coordinate in _coordinates((*inputs, *transitive))
    ]
    head = "# The jars of a Kafka broker with their SHA-256 sums. Written by `make lock`; not to be edited.\n[jars]\n"
    LOCK.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_lock(Path(sys.argv[1]))
