"""How much is measured: the usual amount, and a tiny one that shows no more than that the suite works."""

import msgspec


class Sizes(msgspec.Struct, frozen=True):
    """Amounts and times of a run. Times in seconds."""

    warm_s: float = 3.0
    round_s: float = 1.5
    rounds: int = 11
    drains: int = 3
    backlog_records: int = 500_000
    plain_records: int = 40_000
    copied_rows: int = 200_000
    step_rates: tuple[float, ...] = (8_000, 10_000, 12_000, 14_000, 16_000, 18_000, 20_000, 22_000, 24_000, 26_000)
    step_s: float = 5.0
    hold_s: float = 60.0
    latency_s: float = 20.0
    start_up_keys: tuple[int, ...] = (1_000_000, 5_000_000)


TINY = Sizes(
    warm_s=0.2,
    round_s=0.3,
    rounds=1,
    drains=1,
    backlog_records=4_000,
    plain_records=1_000,
    copied_rows=2_000,
    step_rates=(1_000,),
    step_s=1.0,
    hold_s=1.0,
    latency_s=1.0,
    start_up_keys=(5_000,),
)
