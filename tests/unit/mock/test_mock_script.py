"""Facts about what the scripted server is told to do: distributions, faults, and words that are wrong."""

import re
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from loadgen.cli.app import app
from loadgen.cli.mock import account_text
from loadgen.errors import InputError
from loadgen.mock import (
    Account,
    Distribution,
    Every,
    Exponential,
    Fault,
    FixedTime,
    Freeze,
    LogNormal,
    Normal,
    Positions,
    Script,
    Share,
    Truth,
    Uniform,
    parse_fault,
)
from loadgen.mock.distribution import parse_counts, parse_time_s, parse_times, values
from loadgen.mock.fault import KINDS, choose_fault

MANY = 20_000


def drawn(distribution: Distribution, number: int = MANY) -> list[float]:
    return list(islice(values(distribution, 7, "test"), number))


# Distributions


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("200ms", FixedTime(0.2)),
        ("0", FixedTime(0)),
        ("1.5s", FixedTime(1.5)),
        ("50us", FixedTime(50e-6)),
        ("normal:200ms:20ms", Normal(0.2, 0.02)),
        ("lognormal:200ms:0.5", LogNormal(0.2, 0.5)),
        ("uniform:0:100ms", Uniform(0, 0.1)),
        ("exp:2m", Exponential(120)),
    ],
)
def test_times_are_read(text: str, means: Distribution) -> None:
    assert parse_times(text, "--ttft") == means


def test_counts_are_read_without_a_unit() -> None:
    assert parse_counts("40", "--tokens") == FixedTime(40)
    assert parse_counts("lognormal:40:0.5", "--tokens") == LogNormal(40, 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("200", "with its unit, such as 200ms"),
        ("200 ms", "with its unit"),
        ("-1ms", "with its unit"),
        ("normal:200ms", "no such distribution; write 200ms, normal:MEAN:DEVIATION"),
        ("gauss:1s:1s", "no such distribution"),
        ("normal:200ms:20", "normal:200ms:20: '20' is not a time"),
        ("lognormal:200ms:5ms", "(a plain number)"),
        ("lognormal:200ms:50", "SIGMA is of the logarithm"),
        ("uniform:2s:1s", "LOW is above HIGH; swap them"),
        ("", "with its unit"),
    ],
)
def test_a_time_that_is_none_is_refused_with_the_mend(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^--itl ") as refused:
        parse_times(text, "--itl")
    assert says in str(refused.value)


def test_a_count_with_a_unit_is_refused() -> None:
    with pytest.raises(InputError, match=r"'40ms' is not a number; write e\.g\. --tokens 40"):
        parse_counts("40ms", "--tokens")


def test_a_single_time_is_no_distribution() -> None:
    assert parse_time_s("250ms", "--together") == 0.25
    with pytest.raises(InputError, match="--together exp:1s: 'exp:1s' is not a time"):
        parse_time_s("exp:1s", "--together")


@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"),
    [
        (Normal(10, 1), 10, 1),
        (Uniform(5, 15), 10, 10 / 12**0.5),
        (Exponential(10), 10, 10),
        (LogNormal(10, 0.5), 10 * 2.718281828 ** (0.5**2 / 2), 6.04),
        (FixedTime(10), 10, 0),
    ],
)
def test_values_have_the_distribution_that_was_asked_for(
    distribution: Distribution, mean: float, deviation: float
) -> None:
    got = drawn(distribution)
    assert statistics.fmean(got) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(got) == pytest.approx(deviation, rel=0.05)
    if isinstance(distribution, LogNormal):
        assert statistics.median(got) == pytest.approx(distribution.median, rel=0.03)


def test_a_normal_is_truncated_not_cut_off_at_0() -> None:
    got = drawn(Normal(1, 2))
    assert min(got) > 0
    # Of N(1, 2) above 0: mean + deviation · φ(-0.5) / (1 - Φ(-0.5)) = 1 + 2 · 0.3521 / 0.6915.
    assert statistics.fmean(got) == pytest.approx(2.018, rel=0.03)


def test_values_depend_on_the_seed_and_the_purpose_alone() -> None:
    def of(seed: int, *purpose: str | int) -> list[float]:
        return list(islice(values(Exponential(1), seed, *purpose), 100))

    assert of(1, "a", 5) == of(1, "a", 5)
    assert of(1, "a", 5) != of(2, "a", 5)
    assert of(1, "a", 5) != of(1, "a", 6)


# Faults


@pytest.mark.parametrize(
    ("text", "means", "word"),
    [
        ("reset", Fault("reset", 1), "reset:1"),
        ("fin:3@2%", Fault("fin", 3, Share(0.02)), "fin:3"),
        ("stall:0@#7", Fault("stall", 0, Positions(7, 7)), "stall:0"),
        ("status:429@#5-8", Fault("status", 429, Positions(5, 8)), "status:429"),
        ("malformed@#every:10", Fault("malformed", 1, Every(10)), "malformed:1"),
        ("slow-headers:250ms", Fault("slow-headers", 0.25), "slow-headers:0.25s"),
        ("slow-headers", Fault("slow-headers", 1), "slow-headers:1s"),
        ("split", Fault("split", 0), "split"),
        ("split:3@12.5%", Fault("split", 3, Share(0.125)), "split:3"),
        ("no-done@100%", Fault("no-done", 0, Share(1)), "no-done"),
    ],
)
def test_faults_are_read_and_named(text: str, means: Fault, word: str) -> None:
    fault = parse_fault(text)
    assert fault == means
    assert fault.label == word


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("explode", "no such fault; there are status, html"),
        ("status", "status needs a code from 400 to 599; write e.g. status:429"),
        ("status:200", "from 400 to 599"),
        ("fin:-1", "'-1' is not a number of token events"),
        ("fin:x", "write e.g. fin:3"),
        ("fin:", "nothing behind the colon"),
        ("split:1", "pieces of each frame, 2 or more"),
        ("slow-headers:2", "with its unit"),
        ("slow-headers:0", "a time above 0"),
        ("html:3", "html takes no parameter; write html alone"),
        ("fin@", "'' does not say which requests; write 2% (of them)"),
        ("fin@200%", "'200%' does not say"),
        ("fin@#0", "'#0' does not say"),
        ("fin@#8-5", "'#8-5' does not say"),
        ("fin@#every:0", "does not say"),
        ("fin@7", "does not say"),
    ],
)
def test_a_fault_that_is_none_is_refused_with_the_mend(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^--fault ") as refused:
        parse_fault(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_kind_can_be_asked_for() -> None:
    assert [parse_fault(f"{kind}:500" if kind == "status" else kind).kind for kind in KINDS] == list(KINDS)


def test_positions_are_counted_from_1() -> None:
    faults = (parse_fault("fin@#2-3"), parse_fault("reset@#every:5"))
    kinds = [fault.kind if (fault := choose_fault(faults, 0, number)) else None for number in range(1, 11)]
    assert kinds == [None, "fin", "fin", None, "reset", None, None, None, None, "reset"]


def test_of_faults_that_fall_on_one_request_the_first_named_counts() -> None:
    first, second = parse_fault("fin@#2"), parse_fault("reset")
    assert [choose_fault((first, second), 0, number) for number in (1, 2)] == [second, first]
    assert choose_fault((second, first), 0, 2) == second


@pytest.mark.slow
def test_a_probability_falls_on_as_many_and_on_the_same_ones_again() -> None:
    faults = (parse_fault("fin@10%"),)
    hit = [number for number in range(1, 4001) if choose_fault(faults, 3, number)]
    assert 330 < len(hit) < 470  # 400 ± 3.7 standard deviations
    assert hit == [number for number in range(1, 4001) if choose_fault(faults, 3, number)]
    assert hit != [number for number in range(1, 4001) if choose_fault(faults, 4, number)]


def test_two_probabilities_do_not_fall_on_the_same_requests() -> None:
    both = (parse_fault("fin@50%"), parse_fault("reset@50%"))
    hit = [getattr(choose_fault(both, 0, number), "kind", None) for number in range(1, 1001)]
    assert 200 < hit.count("reset") < 300  # of the half that the first left over, a half


# Scripts


def test_a_script_survives_its_way_to_another_process() -> None:
    script = Script(
        ttft_s=LogNormal(0.2, 0.5),
        itl_s=Exponential(0.05),
        tokens=Uniform(1, 9),
        slots=4,
        freezes=(Freeze(8, 2),),
        faults=(parse_fault("fin:3@2%"), parse_fault("reset@#7"), parse_fault("split@#every:2")),
        models=("a", "b"),
    )
    assert msgspec.json.decode(msgspec.json.encode(script), type=Script) == script


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"slots": 0}, "slots is 0; it must be 1 or more"),
        ({"queue": 3}, "a queue needs slots"),
        ({"slots": 1, "queue": -1}, "queue is -1"),
        ({"tokens_per_event": 0}, "tokens_per_event is 0"),
        ({"slowdown": -0.1}, "slowdown is -0.1"),
        ({"prefill_per_s": 0.0}, "prefill_per_s is 0; it must be above 0"),
        ({"itl_s": Uniform(2, 1)}, "itl_s: LOW is above HIGH"),
        ({"ttft_s": FixedTime(float("nan"))}, "ttft_s: each number must be finite"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        Script(**wrong)
    assert says in str(refused.value)


# The account


def test_percentiles_of_lateness_are_nearest_rank() -> None:
    account = Account(slips={0: 50, 1000: 49, 5000: 1})
    assert account.slip_ms(50) == 0
    assert account.slip_ms(51) == account.slip_ms(99) == 1.024
    assert account.slip_ms(100) == 5.12
    assert Account().slip_ms(50) is None


def test_the_account_says_what_was_done_and_whether_the_schedule_was_kept() -> None:
    kept = account_text(Account(chats=1, tokens=40, slips={20: 40}))
    assert kept.splitlines() == [
        "1 chat, 40 tokens, 0 other requests, 0 connections",
        "late relative to its own schedule: p50 0.02 ms, p99 0.02 ms, at most 0.02 ms",
    ]
    late = account_text(Account(chats=9, clients_left=2, queue_full=1, faults={"fin:1": 3}, slips={20: 90, 4000: 10}))
    assert "9 chats (1 refused by a full queue, 2 abandoned by their client)" in late
    assert "faults: fin:1 ×3" in late
    assert late.splitlines()[-1].startswith("so it did not keep its schedule; ")
    assert "late" not in account_text(Account())


# The page


def test_the_page_explains_every_flag_every_fault_and_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "mock.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([\w-]+)(?:[: ][^`]*)?`", page))
    command = typer.main.get_command(app).commands["mock"]  # type: ignore[attr-defined]
    flags = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert flags - told == set()
    assert set(KINDS) - told == set()
    assert set(Truth.__struct_fields__) - told == set()
