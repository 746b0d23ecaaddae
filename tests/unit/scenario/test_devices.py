"""`--devices` plays each model of Foundry Local once on each device, and leaves all others as they are."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from loadgen.errors import InputError
from loadgen.scenario import FoundryLocal, Model
from loadgen.scenario.devices import DEVICES, device_of_target, parse_devices, target_on
from loadgen.scenario.file import load_scenario
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.variant_models import VariantFlags
from loadgen.targets.registry import target_name

HEAD = 'name = "x"\nprompts = ["Say hello."]\n'
FOUNDRY = '{ name = "phi", target = "foundry", foundry = { stall_s = 7.5 } }'
EMBEDDED = '{ name = "small", foundry = { embedded = true } }'
LLAMACPP = '{ name = "small" }'
ENDPOINT = '{ name = "far", url = "http://h/v1" }'


def models_of(*models: str, **flags: Any) -> tuple[Model, ...]:
    path = Path("x.toml")
    path.write_text(f"{HEAD}models = [{', '.join(models)}]", encoding="utf-8")
    return load_scenario(path, Overrides(**flags)).scenario.models


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_flag_takes_the_devices_that_a_scenario_takes() -> None:
    kinds = get_args(get_type_hints(FoundryLocal)["device"])
    assert tuple(name for kind in kinds for name in get_args(kind)) == DEVICES


@pytest.mark.parametrize(
    ("text", "devices"), [("cpu", ("cpu",)), ("cpu,gpu,npu", DEVICES), (" GPU , Npu ", ("gpu", "npu"))]
)
def test_devices_are_read_in_any_case(text: str, devices: tuple[str, ...]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tpu", '--devices tpu: "tpu" is not a device; write e.g. --devices cpu,gpu,npu'),
        ("cpu,gpus", '--devices cpu,gpus: "gpus" is not a device; did you mean gpu?'),
        ("cpu,,gpu", '--devices cpu,,gpu: "" is not a device; write e.g. --devices cpu,gpu,npu'),
        ("", '--devices : "" is not a device; write e.g. --devices cpu,gpu,npu'),
        ("cpu gpu", '--devices cpu gpu: "cpu gpu" is not a device; write e.g. --devices cpu,gpu,npu'),
        ("cpu,CPU", "--devices cpu,CPU: cpu is listed twice; leave one out"),
    ],
)
def test_what_is_no_list_of_devices_is_named_in_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_devices(text)
    assert str(caught.value) == line


@pytest.mark.parametrize("device", DEVICES)
def test_a_target_says_the_device_that_was_asked_for(device: str) -> None:
    assert device_of_target(target_on(device)) == device


@pytest.mark.parametrize("target", [target_on(None), "llamacpp", "foundry:8080/v3", "h/gpu", "foundry/v1"])
def test_other_targets_say_none(target: str) -> None:
    assert device_of_target(target) is None


def test_each_model_of_foundry_local_is_played_on_each_device_with_its_other_options() -> None:
    models = models_of(LLAMACPP, FOUNDRY, ENDPOINT, EMBEDDED, devices=("cpu", "npu"))
    assert [(model.name, target_name(model)) for model in models] == [
        ("small", "llamacpp"),
        ("phi", "foundry/cpu"),
        ("phi", "foundry/npu"),
        ("far", "h"),
        ("small", "foundry/cpu"),
        ("small", "foundry/npu"),
    ]
    assert models[1].foundry == FoundryLocal(stall_s=7.5, device="cpu")
    assert models[5].foundry == FoundryLocal(embedded=True, device="npu")


def test_the_flag_replaces_the_device_of_the_scenario_and_plays_nothing_twice() -> None:
    listed = (
        '{ name = "phi", target = "foundry", foundry = { device = "cpu" } }',
        '{ name = "phi", target = "foundry", foundry = { device = "gpu" } }',
    )
    assert [target_name(model) for model in models_of(*listed)] == ["foundry/cpu", "foundry/gpu"]
    models = models_of(*listed, devices=("gpu", "npu"))
    assert [target_name(model) for model in models] == ["foundry/gpu", "foundry/npu"]


def test_names_of_a_list_are_played_on_each_device() -> None:
    models = models_of(FOUNDRY, listed=("phi", "qwen"), listed_by="BENCH_MODELS=phi,qwen", devices=("cpu", "gpu"))
    assert [(model.name, target_name(model)) for model in models] == [
        (name, f"foundry/{device}") for name in ("phi", "qwen") for device in ("cpu", "gpu")
    ]


def test_other_flags_count_the_models_as_the_scenario_lists_them() -> None:
    models = models_of(
        FOUNDRY,
        LLAMACPP,
        devices=("cpu", "gpu"),
        set=("models[1].name=tiny",),
        variant=VariantFlags(("models[1].llamacpp.threads=1",)),
    )
    assert [model.name for model in models] == ["phi", "phi", "tiny"]
    assert models[2].llamacpp is not None
    assert models[2].llamacpp.threads == 1


@pytest.mark.parametrize(("models", "flags"), [((LLAMACPP, ENDPOINT), {}), ((FOUNDRY,), {"models": ("m",)})])
def test_without_a_model_of_foundry_local_the_flag_is_refused(models: tuple[str, ...], flags: dict[str, Any]) -> None:
    urls = ("http://h/v1",) if flags else ()
    with pytest.raises(InputError) as caught:
        models_of(*models, devices=("cpu", "gpu"), urls=urls, **flags)
    assert str(caught.value) == (
        "--devices cpu,gpu: no model here is served by Foundry Local; "
        'name one with target = "foundry", or leave the flag out'
    )


def test_a_mistake_of_another_flag_is_still_said_to_be_its_own() -> None:
    with pytest.raises(InputError) as caught:
        models_of(FOUNDRY, LLAMACPP, devices=("cpu", "gpu"), set=("models[1].llamacpp.slots=0",))
    assert str(caught.value).startswith("--set models[1].llamacpp.slots=0: ")
    with pytest.raises(InputError) as caught:
        models_of(FOUNDRY, LLAMACPP, devices=("cpu", "gpu"), set=("models[0].foundry.stall_s=0",))
    assert str(caught.value).startswith("--set models[0].foundry.stall_s=0: ")


def test_one_model_on_one_device_is_not_listed_twice() -> None:
    same = '{ name = "phi", target = "foundry", foundry = { device = "cpu", stall_s = 9.0 } }'
    with pytest.raises(InputError, match="the same model as"):
        models_of(FOUNDRY, same, devices=("cpu",))
