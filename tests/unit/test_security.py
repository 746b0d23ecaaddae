"""What must not happen: a key that is written, a text of others that a terminal, a browser or a spreadsheet obeys, code
that runs what it was sent, a secret in the repository."""

import ast
import html
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cli.app import app
from loadgen.errors import InputError
from loadgen.redact import api_key, guard_tracebacks, printable, redact_key_bytes, redact_keys
from loadgen.report.console import json_text
from loadgen.report.csv import csv_of
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.resolve import resolve_scenario
from loadgen.scenario.schema import EXAMPLES
from loadgen.targets.llamacpp.child_program import common_params
from loadgen.targets.openai import authorization
from tests.sources import modules, nodes_of

ROOT = Path(__file__).parents[2]
KEY = 'sk-"Xk3/jQ9<vTz\\8Lp2Wm7'


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOADGEN_API_KEY", "LOADGEN_API_KEY_FILE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


# --- where a key comes from -------------------------------------------------------------------------------------------


def test_a_key_comes_from_a_variable_or_from_a_file_that_a_variable_names(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbf  of-a-file \r\n")
    named = {"LOADGEN_API_KEY_FILE": str(file)}
    assert api_key({}) is None
    assert api_key({"LOADGEN_API_KEY": " own\n", "OPENAI_API_KEY": "other"}) == "own"
    assert api_key({"LOADGEN_API_KEY": " ", "OPENAI_API_KEY": "other"}) == "other"
    assert api_key(named | {"OPENAI_API_KEY": "other"}) == "of-a-file"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot be read (No such file or directory); name a file that holds the key"),
        (b"", "empty; write the key into it, and nothing else"),
        (b" \n", "empty; write the key into it, and nothing else"),
        (b"one two", "a key may not have spaces, line breaks or non-ASCII characters; set the key alone"),
        (b"one\ntwo", "a key may not have spaces, line breaks or non-ASCII characters"),
        (b"caf\xc3\xa9", "a key may not have spaces, line breaks or non-ASCII characters"),
        (b"x" * 9000, "more than 8192 bytes, so not a key"),
    ],
)
def test_a_file_that_holds_no_key_is_one_line(tmp_path: Path, data: bytes | None, said: str) -> None:
    file = tmp_path / "key"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError) as caught:
        api_key({"LOADGEN_API_KEY_FILE": str(file)})
    assert str(caught.value).startswith(f"LOADGEN_API_KEY_FILE={file}: {said}")
    assert "one" not in str(caught.value).replace("set the key alone", "")


def test_a_folder_holds_no_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        api_key({"LOADGEN_API_KEY_FILE": str(tmp_path)})


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are both set; unset one of them"):
        api_key({"LOADGEN_API_KEY": "a", "LOADGEN_API_KEY_FILE": str(tmp_path)})


def test_a_key_that_a_header_cannot_carry_is_refused_and_not_repeated() -> None:
    for key in ("secret\x00key", "secret\nkey", "secret key", "sécretkey"):
        with pytest.raises(InputError) as caught:
            api_key({"LOADGEN_API_KEY": key})
        assert "LOADGEN_API_KEY: " in str(caught.value)
        assert "cret" not in str(caught.value)


def test_a_key_is_asked_for_only_where_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nprompts = ["a"]\n', encoding="utf-8")
    resolve_scenario(str(path), Overrides(), variables={"LOADGEN_API_KEY_FILE": str(tmp_path / "gone")})


# --- a key is never shown ---------------------------------------------------------------------------------------------


def forms(key: str) -> list[str]:
    return [key, key.upper(), json.dumps(key), f"a{key}b", f"Bearer {key}", f"{key}{key}", f"<{key}>"]


def test_a_key_is_blotted_out_as_each_format_writes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-of-a-file-0123456789\n", encoding="utf-8")
    monkeypatch.setenv("LOADGEN_API_KEY_FILE", str(file))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert authorization() == {"Authorization": "Bearer sk-of-a-file-0123456789"}
    for key in (KEY, "sk-of-a-file-0123456789"):
        for told in [*forms(key), html.escape(key), quote(key, safe=""), f"é{key}\x1b"]:
            hidden = redact_keys(told)
            assert "***" in hidden
            assert key[4:12].lower() not in hidden.lower()
            assert redact_key_bytes(told.encode()) == hidden.encode()
    assert authorization()["Authorization"].endswith("0123456789")


def test_where_there_is_no_key_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact_keys("none of these: ***") == "none of these: ***"
    monkeypatch.setenv("LOADGEN_API_KEY", "ollama")  # a placeholder: as a word, it may stand anywhere
    assert redact_keys("ollama says hello") == "ollama says hello"
    assert redact_key_bytes(b"\xff ollama") == b"\xff ollama"


def test_what_nobody_catches_is_shown_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the process, of a thread, and of a task that nobody waits for."""
    for place, name in ((sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(place, name, getattr(place, name))
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    monkeypatch.setenv("LOADGEN_API_KEY", KEY)
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    guard_tracebacks()
    try:
        raise ValueError(f"told {KEY}")
    except ValueError as error:
        told = error
    sys.excepthook(ValueError, told, told.__traceback__)
    threading.excepthook(threading.ExceptHookArgs((ValueError, told, told.__traceback__, None)))
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, "lost %s", (KEY,), (ValueError, told, None))
    logging.lastResort.handle(record)
    assert heard.getvalue().count("ValueError: told ***") == 3
    assert heard.getvalue().count("Traceback") >= 2
    assert "lost ***" in heard.getvalue()
    assert "Xk3" not in heard.getvalue()


# --- what others say is never obeyed ----------------------------------------------------------------------------------

OBEYED = (
    *(
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x1b]8;;http://evil\x1b\\",
        "\x9b31m",
        "\x90q\x9c",
        "\x08\x7f",
        "a\rb",
        "\n",
        "\t",
    ),
    *("\u202eabc", "\u2066x\u2069", "\u200b", "\u2028", "\ufeff", "\U000e0041"),
)


@pytest.mark.parametrize("text", OBEYED)
def test_a_terminal_is_told_nothing_that_it_would_obey(text: str) -> None:
    assert printable(f"a{text}b").isprintable()
    shown = json_text({"text": text, text: 1})
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == {"text": text, text: 1}


@given(st.text())
def test_json_for_a_terminal_is_the_same_json(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert json.loads(json_text([text])) == [text]
    assert json_text([text]).replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "-2+3", "＝1"])
def test_a_spreadsheet_computes_no_text(text: str) -> None:
    (_, row) = csv_of([{"model": text, "n": -1.5}]).splitlines()
    first = row.lstrip('"')[0]
    assert first == "'"
    assert row.endswith(",-1.5")  # a number stays one


def test_nothing_that_was_sent_is_run() -> None:
    """No code that evaluates text, unpickles, or gives a shell words of its own; TLS is never told not to look."""
    found = [
        f"{module}:{what}"
        for module, path in modules().items()
        for what in dangers(nodes_of(path))
        if (module, what.partition(" ")[2]) not in OURS
    ]
    assert found == []


OURS = {("report/page_template.py", "marshal")}
"""What runs code of our own: it reads the page's template as Python reads a compiled module, out of the same folder."""


NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "jsonpickle", "joblib", "telnetlib"}
ATTRIBUTES = {"_create_unverified_context", "CERT_NONE", "load_pickle"}


def dangers(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield f"{node.lineno} {name}"
            case ast.Import(names=names):
                yield from (f"{node.lineno} {n.name}" for n in names if n.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=module) if (module or "").split(".")[0] in MODULES:
                yield f"{node.lineno} {module}"
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen"):
                yield f"{node.lineno} {node.attr}"
            case ast.Attribute(attr=name) if name in ATTRIBUTES:
                yield f"{node.lineno} {name}"
            case ast.keyword(arg="shell" | "allow_pickle", value=ast.Constant(value=True)):
                yield f"{node.value.lineno} {node.arg}"
            case ast.keyword(arg="ssl" | "verify" | "verify_ssl" | "check_hostname", value=ast.Constant(value=False)):
                yield f"{node.value.lineno} {node.arg}"
            case ast.Assign(targets=[ast.Attribute(attr="check_hostname" | "verify_mode")]):
                yield f"{node.lineno} verify"


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "import pickle",
        "from yaml import load",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "session.get(u, ssl=False)",
        "context.check_hostname = x",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_what_would_be_dangerous_is_found(code: str) -> None:
    assert list(dangers(ast.walk(ast.parse(code))))


def test_no_flag_turns_the_check_of_certificates_off() -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    flags = {name for command in commands.values() for parameter in command.params for name in parameter.opts}
    assert not {flag for flag in flags if re.search(r"insecure|verify|tls|ssl|cert", flag)}


# --- who can reach what we serve --------------------------------------------------------------------------------------


def test_servers_of_ours_listen_on_loopback_unless_told_otherwise() -> None:
    given_ = Namespace(model="m", alias="a", port=0, slots=1, context_tokens=8, threads=1, prefill_threads=1)
    part = SimpleNamespace
    engine = part(CommonParams=lambda: part(model=part(), cpuparams=part(), cpuparams_batch=part()))
    assert common_params(given_, engine).hostnames == ["127.0.0.1"]
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    (host,) = (parameter for parameter in commands["mock"].params if parameter.name == "host")
    assert host.default == "127.0.0.1"
    assert not [parameter for parameter in commands["serve"].params if parameter.name == "host"]


# --- secrets in the repository ----------------------------------------------------------------------------------------

SECRETS = re.compile(
    rb"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,}"
    rb"|hf_[A-Za-z0-9]{30,}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----\s"
    rb"|eyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{60,}"
)


def committed() -> list[Path]:
    """The files that git keeps or would keep; where there is no git, those of our folders."""
    git = shutil.which("git")
    if git is not None:
        command = [git, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if listed.returncode == 0:
            return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    folders = (
        "loadgen",
        "tests/unit",
        "tests/integration",
        "tests/data",
        "docs",
        "scenarios",
        "benchmarks",
        "examples",
    )
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_no_file_holds_a_secret() -> None:
    files = committed()
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): told[0][:8] for path in files if (told := SECRETS.search(path.read_bytes()))}
    assert found == {}


@pytest.mark.parametrize(
    "parts",
    [("sk-", "a1B2" * 10), ("AKIA", "ABCDEFGH" * 2), ("ghp_", "a1B2" * 9), ("-----BEGIN RSA ", "PRIVATE KEY-----\n")],
)
def test_a_secret_would_be_found(parts: tuple[str, str]) -> None:
    assert SECRETS.search("".join(parts).encode())


def test_a_scenario_has_no_place_for_a_key() -> None:
    keys = {key for table in EXAMPLES.values() for key in table}
    assert len(keys) > 40
    # A secret in `headers` is named, and stands in the environment: tests/unit/scenario/test_headers.py.
    assert {key for key in keys if re.search(r"api|auth|secret|passw|^headers?$", key)} == {"headers"}
