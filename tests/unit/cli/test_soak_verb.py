"""The verb soak: flags that are wrong, each one line with the mend, and exit code 2. Nothing is sent."""

from pathlib import Path

import pytest

from tests.command_line import run_command, without_settings

AT = ("--url", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    Path("night.toml").write_text(
        'name = "night"\nprompts = ["Say hello."]\n[soak]\nconcurrency = 2\nduration_s = 3600\n', encoding="utf-8"
    )
    Path("plain.toml").write_text('name = "plain"\nprompts = ["Say hello."]\n', encoding="utf-8")
    Path("until.toml").write_text(
        'name = "until"\nprompts = ["Say hello."]\nuntil = "ttft_p99:5%"\n[soak]\nduration_s = 3600\n', encoding="utf-8"
    )
    Path("wrong.toml").write_text(
        'name = "wrong"\nprompts = ["Say hello."]\n[soak]\nduration = 3600\n', encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plain",), "plain.toml: soak.duration_s: missing; add --duration 8h, or write duration_s = 28800 in [soak]"),
        (
            AT,
            "the built-in scenario: soak.duration_s: missing; add --duration 8h, or write duration_s = 28800 in [soak]",
        ),
        (("wrong",), "wrong.toml: soak.duration: unknown key `duration`; did you mean `duration_s`?"),
        (("until",), "until.toml: until: a soak ends by its duration alone; leave the key out of this scenario"),
        (("night", "--concurrency", "1,2"), "--concurrency 1,2: a soak plays one level; give one of them"),
        (("night", "--rate", "0.5,1"), "--rate 0.5,1: a soak plays one level; give one of them"),
        (("night", "--until", "x"), "--until x: a soak ends after its time; leave it out, and set --duration"),
        (("night", "--requests", "9"), "--requests 9: a soak ends after its time; leave it out, and set --duration"),
        (("night", "--repeats", "3"), "--repeats 3: a soak is played once; leave it out, and compare nights with "),
        (("night", "--baseline", "b"), "--baseline b: a soak is no baseline; leave it out, and compare nights with "),
        (("night", "--window", "500ms"), "--window 0.5s: soak.window_s: 0.5 is not a number from 1 to 600; write e.g."),
        (("night", "--window", "11m"), "--window 660s: soak.window_s: 660.0 is not a number from 1 to 600; write e.g."),
        (("night", "--window", "x"), "--window x: not a time above 0; write e.g. --window 30s, 2m, 1h or 500ms"),
        (
            ("night", "--duration", "0s"),
            "--duration 0s: not a time above 0; write e.g. --duration 30s, 2m, 1h or 500ms",
        ),
        (
            ("night", "--disk", "2GB"),
            '--disk 2GB: soak.disk: "2GB" is not a size; write e.g. disk = "2GiB", or use KiB',
        ),
        (
            ("night", "--disk", "1MiB"),
            "night.toml: a run folder of 1MiB (--disk, or soak.disk) is too small, "
            "because 60 windows alone may need 3 MiB",
        ),
        (("night", "--matters", "5"), None),
        (("night", "--matters", "-5"), "--matters -5: not from 0.01 % to 100 %; write e.g. --matters 5%"),
        (("night", "--give-up", "now"), "--give-up now: not a time above 0; write e.g. --give-up 30s, 2m, 1h or 500ms"),
        (("night", "--fail-on", "drift"), "--fail-on drift: not one of the words; write degrading, unsure or never"),
        (("night", "--allow-outages", "-1"), "Invalid value for '--allow-outages': -1 is not in the range x>=0"),
        (
            ("night", "--resume", "x"),
            "--resume x with SCENARIO: what is played is in the folder of the soak; leave SCENARIO ",
        ),
        (
            ("--resume", "x", "--rate", "2"),
            "--resume x with --rate: what is played is in the folder of the soak; leave ",
        ),
        (("--resume", "x", "--disk", "9GiB"), "--resume x with --disk: what is played is in the folder of the soak; "),
        (
            ("--resume", "x", "--give-up", "9m"),
            "--resume x with --give-up: what is played is in the folder of the soak; ",
        ),
        (("--resume", "x", "--out", "y"), "--resume x with --out: what is played is in the folder of the soak; leave "),
        (("--resume", "x"), "x: not a run folder; give a folder with a manifest.json, such as those under results/"),
        (("night", "--workers", "0"), "--workers: '0' is not a number of processes; give 1 to 1024, or auto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_flag_is_one_line_with_its_mend(arguments: tuple[str, ...], message: str | None) -> None:
    if message is None:  # a percentage needs no sign; another flag ends the command before anything is played
        arguments, message = (*arguments, "--fail-on", "x"), "--fail-on x: not one of the words"
    shown = run_command("soak", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"loadgen: {message}")
    assert shown.stderr.count("\n") == 1
