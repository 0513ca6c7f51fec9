"""`headrace programs`: what it writes, and that gateways follow it."""

import json
import uuid
from typing import Any

from click.testing import CliRunner, Result

from deploy.cli import cli
from tests.deploy import letters
from tests.stack import Stack, wait_until


def programs(database_url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["programs", *arguments, "--database-url", database_url])


def row(database_url: str, program_id: str) -> dict[str, Any]:
    (found,) = letters.rows(database_url, "select * from headrace.programs where program_id = %s", program_id)
    return found


def test_added_once_and_listed(database_url: str, program_id: str) -> None:
    added = programs(database_url, "add", program_id, "--name", "Förderung\x1b[31m", "--json")
    assert added.exit_code == 0
    told = json.loads(added.stdout)
    assert (told["program_id"], told["name"], told["disabled_at"]) == (program_id, "Förderung\x1b[31m", None)
    again = programs(database_url, "add", program_id, "--name", "Förderung\x1b[31m", "--json")
    assert json.loads(again.stdout) == told
    other = programs(database_url, "add", program_id, "--name", "another")
    assert (other.exit_code, other.stderr) == (
        1,
        f"Error: program {program_id} is registered already, as 'Förderung\\x1b[31m'\n",
    )
    listed = json.loads(programs(database_url, "list", "--json").stdout)["programs"]
    assert [found for found in listed if found["program_id"] == program_id] == [told]
    (line,) = [line for line in programs(database_url, "list").stdout.splitlines() if line.startswith(program_id)]
    assert line.split()[1] == "enabled"
    assert line.endswith("Förderung\\x1b[31m")


def test_every_change_moves_updated_at(database_url: str, program_id: str) -> None:
    """Gateways ask for what has changed since."""
    programs(database_url, "add", program_id, "--name", "p")
    rows = [row(database_url, program_id)]
    for command in ("disable", "disable", "enable"):
        assert programs(database_url, command, program_id).exit_code == 0
        rows.append(row(database_url, program_id))
    assert [found["updated_at"] for found in rows] == sorted({found["updated_at"] for found in rows})
    assert [found["disabled_at"] is None for found in rows] == [True, False, False, True]
    assert rows[1]["disabled_at"] == rows[2]["disabled_at"]
    assert rows[3]["created_at"] == rows[0]["created_at"]


def test_unknown_program_is_one_clear_line(database_url: str) -> None:
    unknown = uuid.uuid4()
    for command in ("disable", "enable"):
        done = programs(database_url, command, str(unknown))
        told = f"Error: program {unknown} is not registered: see `headrace programs list`\n"
        assert (done.exit_code, done.stderr) == (1, told)


def test_no_database_is_one_clear_line() -> None:
    done = programs("postgresql://headrace@127.0.0.1:9/headrace", "list")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: Postgres: connection failed")
    assert done.stderr.count("\n") == 1


def test_gateways_follow(bare_stack: Stack, program_id: str) -> None:
    programs(bare_stack.database_url, "add", program_id, "--name", "p")
    bare_stack.start_gateway(programs="registered")

    def answer() -> dict[str, Any]:
        event = letters.event(program_id, str(uuid.uuid4()))
        return dict(letters.post(bare_stack, "/v1/events/batch", {"events": [event]})["results"][0])

    assert answer()["status"] == "accepted"
    programs(bare_stack.database_url, "disable", program_id)
    wait_until(lambda: answer().get("code") == "invalid_program_id", "the gateway refuses the program", 10)
    programs(bare_stack.database_url, "enable", program_id)
    wait_until(lambda: answer()["status"] == "accepted", "the gateway takes the program again", 10)
