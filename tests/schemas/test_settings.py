"""Settings: every mistake in one message, and no secret in it."""

import pytest

from schemas.settings import Settings, SettingsError, describe, load


def wrong(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load({f"HEADRACE_{name.upper()}": value for name, value in environ.items()})
    return str(caught.value)


def test_nothing_set_is_the_defaults() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "x", "HEADRACE": "x", "headrace_port": "x"}) == Settings()


def test_values_are_read_by_their_types() -> None:
    loaded = load(
        {
            "HEADRACE_PORT": "0",
            "HEADRACE_DATABASE_TIMEOUT_S": "0.5",
            "HEADRACE_IDEMPOTENCY_CHECK": "deferred",
            "HEADRACE_KAFKA_SASL_PASSWORD": "12",
            "HEADRACE_KAFKA": "null",
        }
    )
    assert loaded == Settings(
        port=0, database_timeout_s=0.5, idempotency_check="deferred", kafka_sasl_password="12", kafka="null"
    )


def test_all_mistakes_are_told_at_once() -> None:
    message = wrong(port="70000", max_event_bytes="none", nonsense="1", idempotency_check="STRICT", group="")
    assert message.count("\n") == 5
    for name in (
        "PORT='70000'",
        "MAX_EVENT_BYTES='none'",
        "NONSENSE: unknown",
        "IDEMPOTENCY_CHECK='STRICT'",
        "GROUP=''",
    ):
        assert f"HEADRACE_{name}" in message


def test_secrets_stay_secret() -> None:
    settings = {"kafka_sasl_password": "hunter2", "database_url": "postgresql://u:hunter3@h/d", "port": "-1"}
    message = wrong(**settings)
    assert "hunter" not in message


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "-1", "1e999"])
@pytest.mark.parametrize("name", ["database_timeout_s", "body_timeout_s", "headers_timeout_s", "handler_timeout_s"])
def test_a_time_must_be_a_time(name: str, value: str) -> None:
    assert f"HEADRACE_{name.upper()}" in wrong(**{name: value})


@pytest.mark.parametrize(
    "name", ["partitions", "max_event_bytes", "max_body_bytes", "database_pool_max", "claim_ttl_s"]
)
def test_a_count_is_at_least_one(name: str) -> None:
    assert "Expected `int` >= 1" in wrong(**{name: "0"})
    assert getattr(load({f"HEADRACE_{name.upper()}": "1"}), name) == 1


def test_the_tests_own_names_are_none_of_the_settings_business() -> None:
    assert load({"HEADRACE_TEST_BACKEND": "containers"}) == Settings()


def test_describe_tells_every_setting() -> None:
    rows = {name: (default, unit, meaning) for name, default, unit, meaning in describe()}
    assert len(rows) == len(Settings.__struct_fields__)
    assert rows["HEADRACE_MAX_EVENT_BYTES"] == ("65536", "bytes", "Largest `event_data`, serialized")
    assert all(meaning for _, _, meaning in rows.values())
    units = {"_s": "s", "_ms": "ms", "_bytes": "bytes"}
    for name, (_, unit, _) in rows.items():
        ending = next((ending for ending in units if name.lower().endswith(ending)), None)
        assert ending is None or unit.split("/")[-1] == units[ending], name
