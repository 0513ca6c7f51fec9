"""The topics as the contract has them."""

from schemas.topics import all_topics, changelog, overrides

_WEEK_MS, _FORTNIGHT_MS, _MONTH_MS = "604800000", "1209600000", "2592000000"


def test_names_and_retention() -> None:
    topics = {topic.name: topic.config for topic in all_topics("g")}
    kept = {name: (config["cleanup.policy"], config.get("retention.ms")) for name, config in topics.items()}
    assert kept == {
        "events": ("delete", _WEEK_MS),
        "events.status": ("delete", _WEEK_MS),
        "events.retry": ("delete", _WEEK_MS),
        "events.dlq": ("delete", _MONTH_MS),
        "g-dedupe-changelog": ("compact,delete", _FORTNIGHT_MS),
    }


def test_changelog_belongs_to_its_group() -> None:
    assert changelog("a") != changelog("b")


def test_two_of_three_replicas_must_have_a_record() -> None:
    assert [overrides(factor)["min.insync.replicas"] for factor in (1, 2, 3, 5)] == ["1", "1", "2", "2"]
