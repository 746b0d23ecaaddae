"""What of the Foundry Local target needs no service: addresses, names, and a child's command line."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.child import arguments
from loadgen.errors import InputError, TargetError
from loadgen.scenario import FoundryLocal, Model
from loadgen.targets.foundry import target
from loadgen.targets.foundry.service import argument_parser
from loadgen.targets.foundry.target import ENDPOINT_VARIABLE, endpoint_of, find_entry, sdk_major

HERE = "http://127.0.0.1:5273"
NO_URLS = ("localhost", "ftp://there/v1", "http://", "https:///v1", "http://[::1", "http://here:x")


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)


def ids(*identifiers: str) -> list[dict[str, Any]]:
    return [{"id": identifier} for identifier in identifiers]


def resolved(name: str, *identifiers: str, device: str | None = None) -> str | None:
    entry = find_entry(name, ids(*identifiers), device)
    return None if entry is None else entry["id"]


# Where a service runs already


def test_without_an_endpoint_a_service_is_started() -> None:
    assert endpoint_of(FoundryLocal()) is None


PRINTED = ("5273", ":5273", "127.0.0.1:5273", f"{HERE}/openai/status", f"{HERE}/v1/models", f"{HERE}/models/loaded")
"""What Foundry Local's own tools print as the place of its service, and parts of it."""


@pytest.mark.parametrize("told", [HERE, f"{HERE}/", f"{HERE}/v1", f"{HERE}/v1/", f"  {HERE} ", *PRINTED])
def test_an_endpoint_ends_in_v1_however_it_is_written(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint_of(FoundryLocal(endpoint=told.strip())) == f"{HERE}/v1"
    monkeypatch.setenv(ENDPOINT_VARIABLE, told)
    assert endpoint_of(FoundryLocal()) == f"{HERE}/v1"


def test_the_environment_goes_before_the_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "https://there")
    assert endpoint_of(FoundryLocal(endpoint=HERE)) == "https://there/v1"


def test_an_empty_environment_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "  ")
    assert endpoint_of(FoundryLocal(endpoint=HERE)) == f"{HERE}/v1"


@pytest.mark.parametrize("told", NO_URLS)
def test_what_is_no_url_is_refused_by_where_it_was_written(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'^foundry\.endpoint: .*; write (e\.g\. )?"http'):
        endpoint_of(FoundryLocal(endpoint=told))
    monkeypatch.setenv(ENDPOINT_VARIABLE, told)
    with pytest.raises(InputError, match=rf'^{ENDPOINT_VARIABLE}: .*; write (e\.g\. )?"http'):
        endpoint_of(FoundryLocal())


# Which model a name means


def test_a_full_id_is_itself_and_no_other_version() -> None:
    assert resolved("tiny-cpu:2", "tiny-cpu:1", "tiny-cpu:2") == "tiny-cpu:2"
    assert resolved("tiny-cpu:3", "tiny-cpu:1", "tiny-cpu:2") is None


def test_an_id_goes_without_its_version_and_in_any_case() -> None:
    assert resolved("Tiny-CPU", "other:1", "tiny-cpu:7") == "tiny-cpu:7"
    assert resolved("phi-4", "Phi-4-generic-cpu:1") == "Phi-4-generic-cpu:1"


def test_an_alias_is_not_another_whose_name_goes_on() -> None:
    listed = ("phi-4-mini-instruct-generic-cpu:5", "Phi-4-generic-cpu:1")
    assert resolved("phi-4", *listed) == "Phi-4-generic-cpu:1"
    assert resolved("phi-4-mini", *listed) == "phi-4-mini-instruct-generic-cpu:5"
    assert resolved("phi", "phibeta-cpu:1") is None


def test_a_device_picks_among_the_variants_of_an_alias() -> None:
    listed = ("tiny-generic-cpu:1", "tiny-cuda-gpu:1", "tiny-qnn-npu:2")
    assert resolved("tiny", *listed, device="npu") == "tiny-qnn-npu:2"
    assert resolved("tiny", *listed, device="gpu") == "tiny-cuda-gpu:1"
    assert resolved("tiny", *listed[:2], device="npu") is None
    assert resolved("tiny-cuda-gpu:1", *listed, device="cpu") == "tiny-cuda-gpu:1", "an id says it all"


def test_a_device_that_only_a_model_of_a_longer_name_has_is_not_there() -> None:
    listed = ("phi-4-generic-cpu:1", "phi-4-mini-instruct-cuda-gpu:5", "phi-4-mini-instruct-generic-cpu:5")
    assert resolved("phi-4", *listed, device="gpu") is None
    assert resolved("phi-4", *listed, device="cpu") == "phi-4-generic-cpu:1"
    assert resolved("phi-4-mini", *listed, device="gpu") == "phi-4-mini-instruct-cuda-gpu:5"
    assert resolved("tiny-1b", "tiny-1b-cpu:1", "tiny-1b-cuda-gpu:1", device="gpu") == "tiny-1b-cuda-gpu:1"


def test_entries_without_an_id_are_passed_over() -> None:
    assert find_entry("tiny", [{}, {"id": 3}, {"id": "tiny-cpu:1"}]) == {"id": "tiny-cpu:1"}
    assert find_entry("tiny", []) is None


NAME = st.from_regex(r"[a-z]{1,4}(-[a-z0-9.]{1,4}){0,3}", fullmatch=True)


@pytest.mark.slow
@given(st.lists(st.builds("{}:{}".format, NAME, st.integers(1, 9)), min_size=1, unique=True), st.data())
def test_every_id_that_is_listed_is_found_by_itself(listed: list[str], data: st.DataObject) -> None:
    identifier = data.draw(st.sampled_from(listed))
    assert resolved(identifier, *listed) == identifier
    assert str(resolved(identifier.partition(":")[0], *listed)).partition(":")[0] == identifier.partition(":")[0]


# Which SDK there is


@pytest.mark.parametrize(
    ("installed", "major"), [("2.2.1", 2), ("1.2.4", 1), ("0.5.1", 0), ("3", 3), ("dev", None), (None, None)]
)
def test_the_major_version_of_the_sdk_is_what_is_installed(
    installed: str | None, major: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        assert name == "foundry-local-sdk"
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert sdk_major() == major


# What a child is started with


def test_flags_become_words_none_is_left_out_and_a_list_repeats() -> None:
    flags = {"--a": "x y", "--b": None, "--c": ["1", "2"], "--d": (), "--e": True, "--f": 0, "--g": 1.5}
    assert arguments(flags) == ["--a", "x y", "--c", "1", "--c", "2", "--e", "--f", "0", "--g", "1.5"]


def test_a_service_understands_what_it_is_started_with() -> None:
    options = FoundryLocal(device="gpu", port=5273, stall_s=7.5, catalog=("http://a", "http://b"))
    told = argument_parser().parse_args(arguments(target._flags(Model(name="tiny"), options, "cache")))
    assert (told.model, told.device, told.port, told.cache) == ("tiny", "gpu", 5273, "cache")
    assert (told.catalog, told.no_catalog, told.stall_s, told.list) == (["http://a", "http://b"], False, 7.5, False)


def test_an_embedded_model_asks_no_catalog() -> None:
    told = argument_parser().parse_args(
        arguments(target._flags(Model(name="tiny"), FoundryLocal(embedded=True), "cache"))
    )
    assert told.no_catalog is True
    assert told.device is None


def old_sdk(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """A 0.x SDK on the path, and none of a later series."""
    (folder / "foundry_local.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "foundry_local", raising=False)
    monkeypatch.delenv(target.ENDPOINT_VARIABLE, raising=False)
    monkeypatch.setattr(target, "sdk_major", lambda: 0)


def test_an_sdk_of_the_0_x_series_is_asked_where_its_service_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = 'class FoundryLocalManager:\n    endpoint = "http://127.0.0.1:5273/v1"\n'
    old_sdk(monkeypatch, tmp_path, told)
    assert target._old_sdk_endpoint() == "http://127.0.0.1:5273/v1"


def test_a_0_x_service_that_cannot_be_started_says_what_can_be_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = "def FoundryLocalManager():\n    raise RuntimeError('foundry: command not found')\n"
    old_sdk(monkeypatch, tmp_path, told)
    with pytest.raises(TargetError, match="command not found; run `foundry service start`"):
        target._old_sdk_endpoint()
