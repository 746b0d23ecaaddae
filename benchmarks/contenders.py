"""The clients that are compared: the command line of each, and what it reports. Knows no truth.

Ours is run as a user runs it. The plain ones are `clients.py` and `reader.c`. The peers are run in environments of
their own, and what they say is read from the reports that they write.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.truth import Load, compiled, quantile
from loadgen.record import Record

ROOT: Final = Path(__file__).parent.parent
RAMP_IN_S: Final = 1.0
PROMPTS: Final = 5000

Pair = tuple[float, float]
"""p50 and p99, ms."""


class ClientAnswer(Struct, frozen=True):
    """What a client saw of one request, ns of a clock of its own. written_ns: None where it does not tell."""

    number: int
    sent_ns: int
    written_ns: int | None
    stamps_ns: tuple[int, ...]


class Reported(Struct, frozen=True, kw_only=True):
    """What a client says of its run. answers: of each request; a pair that is None is taken from there, by nearest
    ranks (we withhold the p99 of less than 368 requests).

    itl_of: what its ITL is a distribution of: the gaps between tokens, or each request's mean gap. linear: its
    percentiles lie between ranks, as numpy's do; else they are the nearest ranks.
    """

    ttft_ms: Pair | None = None
    service_ttft_ms: Pair | None = None
    itl_ms: Pair | None = None
    itl_of: Literal["gaps", "means"] = "gaps"
    linear: bool = False
    answers: tuple[ClientAnswer, ...] = ()


class Run(Struct, frozen=True):
    """How to run a client: a command, its environment beside ours, and where its report then is."""

    command: Sequence[str]
    report: Callable[[], Reported]
    environment: Mapping[str, str] = {}


Prepare = Callable[[str, Load, Path], Run]
"""A client: from the server's URL, the load, and an empty folder for it."""


class Contender(Struct, frozen=True):
    """One of the compared. elsewhere: in an environment of its own. peer: a tool like ours, that measures by itself.
    floor: what a client costs at least, and only that."""

    name: str
    prepare: Prepare
    elsewhere: bool = False
    peer: bool = False
    floor: bool = False


# Ours


def loadgen(url: str, load: Load, folder: Path) -> Run:
    """`loadgen run`, with a scenario file."""
    scenario = folder / "accuracy.toml"
    scenario.write_text(
        'name = "accuracy"\nprompts = "Tick."\nwarmup_requests = 0\nprobe = false\nkeep_text = true\n'
        f'[load]\nmode = "closed"\nconcurrency = [{load.streams}]\nrequests = {load.requests}\n'
        "[sampling]\nmax_tokens = 4096\n"
    )
    command = [sys.executable, "-m", "loadgen", "run", str(scenario), "--url", url, "--model", "m", "--quiet"]
    environment = {"PYTHONPATH": str(ROOT)}  # the one that stands beside this file
    return Run([*command, "--out", str(folder)], lambda: _of_loadgen(folder), environment)


def _of_loadgen(folder: Path) -> Reported:
    summary = next((folder / "accuracy").glob("*/summary.json"))
    metrics = json.loads(summary.read_text())["stages"][0]["metrics"]
    lines = (summary.parent / "requests.jsonl").read_bytes().splitlines()
    records = [msgspec.json.decode(line, type=Record) for line in lines]
    wrong = [record for record in records if record.outcome != "ok"]
    if wrong:
        raise SystemExit(f"loadgen: {len(wrong)} requests failed, the first as {wrong[0].outcome}: {wrong[0].detail}")
    answers = tuple(
        ClientAnswer(int(str(each.text).split()[0]), each.sent_ns or 0, each.written_ns, each.stamps_ns)
        for each in records
    )

    def pair(name: str) -> Pair | None:
        low, high = metrics[name]["p50"], metrics[name]["p99"]
        return None if low is None or high is None else (low, high)

    return Reported(
        ttft_ms=pair("ttft_ms"), service_ttft_ms=pair("service_ttft_ms"), itl_ms=pair("itl_ms"), answers=answers
    )


# Plain ones


def plain(name: str, python: Path) -> Prepare:
    """One of `clients.py`, in the environment that has it."""

    def prepare(url: str, load: Load, folder: Path) -> Run:
        stamps = folder / "stamps.txt"
        script = str(Path(__file__).parent / "clients.py")
        given = [name, url, str(load.streams), str(load.asks), str(RAMP_IN_S), str(stamps)]
        return Run([str(python), script, *given], lambda: Reported(answers=_of_lines(stamps)))

    return prepare


def reader(programs: Path) -> Prepare | None:
    """The C reader; None where it cannot be compiled."""
    program = compiled(programs, "reader")
    if program is None:
        return None

    def prepare(url: str, load: Load, folder: Path) -> Run:
        stamps = folder / "stamps.txt"
        given = [str(urlsplit(url).port), str(load.streams), str(load.asks), str(RAMP_IN_S), str(stamps)]
        return Run([str(program), *given], lambda: Reported(answers=_of_lines(stamps)))

    return prepare


def _of_lines(path: Path) -> tuple[ClientAnswer, ...]:
    rows = (tuple(map(int, line.split())) for line in path.read_text().splitlines())
    return tuple(ClientAnswer(number, sent, written or None, tuple(stamps)) for number, sent, written, *stamps in rows)


# Peers, by the folder of their virtual environment


def guidellm(environment: Path) -> Prepare:
    def prepare(url: str, load: Load, folder: Path) -> Run:
        prompts = _prompts(folder, "prompt")
        report = folder / "report.json"
        command = [
            *(str(environment / "bin" / "guidellm"), "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={url.removesuffix('/v1')},model=m"),
            *("--profile", f"kind=concurrent,streams={load.streams},rampup_duration={RAMP_IN_S}"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--data", f"kind=json_file,path={prompts}"),
            *("--tokenizer", f"kind=hf_auto,model={tokenizer(environment, folder.parent)}"),
            *("--output", f"kind=json,path={report}"),
        ]
        # Its default of ten processes takes few cores half a minute to start. One a core: its medians are closer for
        # it, its p99s sometimes closer and sometimes not.
        workers = str(min(10, os.cpu_count() or 1))
        return Run(
            command, lambda: _of_guidellm(report), {"HF_HUB_OFFLINE": "1", "GUIDELLM__MAX_WORKER_PROCESSES": workers}
        )

    return prepare


def _of_guidellm(report: Path) -> Reported:
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]

    def pair(name: str) -> Pair:
        percentiles = metrics[name]["successful"]["percentiles"]
        return percentiles["p50"], percentiles["p99"]

    return Reported(ttft_ms=pair("time_to_first_token_ms"), itl_ms=pair("inter_token_latency_ms"), itl_of="means")


def aiperf(environment: Path) -> Prepare:
    def prepare(url: str, load: Load, folder: Path) -> Run:
        command = [
            *(str(environment / "bin" / "aiperf"), "profile", "--model", "m", "--url", url.removesuffix("/v1")),
            *("--endpoint-type", "chat", "--streaming", "--use-server-token-count"),
            *("--concurrency", str(load.streams), "--request-count", str(load.requests)),
            *("--concurrency-ramp-duration", str(RAMP_IN_S)),
            *("--tokenizer", str(tokenizer(environment, folder.parent))),
            *("--input-file", str(_prompts(folder, "text")), "--custom-dataset-type", "single_turn"),
            *("--artifact-dir", str(folder), "--export-level", "summary", "--ui", "none", "--no-gpu-telemetry"),
        ]
        return Run(command, lambda: _of_aiperf(folder / "profile_export_aiperf.json"))

    return prepare


def _of_aiperf(report: Path) -> Reported:
    metrics = json.loads(report.read_text())

    def pair(name: str) -> Pair:
        return metrics[name]["p50"], metrics[name]["p99"]

    return Reported(
        ttft_ms=pair("time_to_first_token"), itl_ms=pair("inter_token_latency"), itl_of="means", linear=True
    )


def locust(environment: Path) -> Prepare:
    def prepare(url: str, load: Load, folder: Path) -> Run:
        command = [
            *(str(environment / "bin" / "locust"), "-f", str(Path(__file__).parent / "locustfile.py")),
            *("--headless", "--only-summary", "--json-file", str(folder / "report")),
            *("--users", str(load.streams), "--spawn-rate", f"{load.streams / RAMP_IN_S:g}"),
            *("--host", url.removesuffix("/v1")),
        ]
        asked = {"BENCH_STREAMS": str(load.streams), "BENCH_ASKS": str(load.asks)}
        return Run(command, lambda: _of_locust(folder / "report.json"), asked)

    return prepare


def _of_locust(report: Path) -> Reported:
    """Its own rounding is in it: to whole ms, above 100 ms to two digits."""
    rows = {row["name"]: row["response_times"] for row in json.loads(report.read_text())}

    def pair(name: str) -> Pair:
        times = np.repeat([float(ms) for ms in rows[name]], list(rows[name].values()))
        return quantile(times, 50), quantile(times, 99)

    return Reported(ttft_ms=pair("TTFT"), itl_ms=pair("ITL"))


PEERS: Final[Mapping[str, Callable[[Path], Prepare]]] = {"guidellm": guidellm, "aiperf": aiperf, "locust": locust}

_TOKENIZER: Final = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = {word: index for index, word in enumerate(("<unk>", "<s>", "</s>", "Tick", ".", "t"))}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
fast.save_pretrained(sys.argv[1])
"""


def tokenizer(environment: Path, folder: Path) -> Path:
    """A tokenizer of six words, made once: peers want one before they start, and there may be no network to get it."""
    path = folder / f"tokenizer-{environment.name}"
    if not path.exists():
        command = [str(environment / "bin" / "python"), "-c", _TOKENIZER, str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def _prompts(folder: Path, key: str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text(f"{json.dumps({key: 'Tick.'})}\n" * PROMPTS)
    return path


def version(python: Path, package: str) -> str:
    """A package's version in an environment."""
    asks = f"import importlib.metadata as m, platform; print(m.version({package!r}), platform.python_version())"
    shown = subprocess.run([str(python), "-c", asks], capture_output=True, text=True, timeout=60, check=False)
    if shown.returncode:
        raise SystemExit(f"{python}: has no {package}; install it there, or leave the flag out")
    return shown.stdout.split()[0]
