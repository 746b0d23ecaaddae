"""The recipes for a soak every night, with the paths of this machine: `loadgen soak --print-units KIND`.

Each plays the soak at 22:00 and asks `loadgen history` afterwards. A pure part writes the text; `docs/nightly.md` shows
the same text, and a test compares them.
"""

import getpass
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, get_args
from xml.sax.saxutils import escape

from msgspec import Struct

from loadgen.cli.streams import print_text
from loadgen.errors import InputError
from loadgen.scenario.file import NO_SCENARIO

UnitKind = Literal["systemd", "cron", "schtasks", "launchd"]
EXAMPLE: Final = ("summarizer", "--duration", "8h")
"""What is played if the command line does not say it."""
FLAG: Final = "--print-units"
_WITHOUT_EFFECT: Final = ("--json", "--quiet")
"""Flags that say how a soak is printed, which nobody watches."""
ADDRESS: Final = "you@example.com"
UNIT_FOLDER: Final = "/etc/systemd/system"


class Nightly(Struct, frozen=True, kw_only=True):
    """What is played every night, and where."""

    loadgen: tuple[str, ...]
    """The words that start loadgen here: a path, or an interpreter and `-m loadgen`."""
    arguments: tuple[str, ...]
    """Those of `loadgen soak`."""
    scenario: str
    out: str | None
    """The folder of `--out`; None: `results`."""
    folder: str
    """The folder in which it is played; paths in the arguments are relative to it."""
    user: str

    @property
    def soak(self) -> tuple[str, ...]:
        return (*self.loadgen, "soak", *self.arguments)

    @property
    def history(self) -> tuple[str, ...]:
        return (*self.loadgen, "history", self.scenario, *(() if self.out is None else ("--out", self.out)))


def parse_kind(text: str) -> UnitKind:
    """The kind of a recipe. Raises InputError."""
    for kind in get_args(UnitKind):
        if text == kind:
            return kind  # type: ignore[no-any-return]
    raise InputError(f"{FLAG} {text}: no such kind; write {FLAG} {', '.join(get_args(UnitKind)[:-1])} or launchd")


def print_recipe(kind: str, scenario: str | None, out: Path | None) -> None:
    """Print the recipe of a kind for what this command line plays. scenario, out: as its flags say. Raises
    InputError."""
    print_text(units_text(parse_kind(kind), nightly_here(sys.argv, scenario, out)))


def units_text(kind: UnitKind, nightly: Nightly) -> str:
    """The recipe of a kind."""
    match kind:
        case "systemd":
            return _systemd(nightly)
        case "cron":
            return _cron(nightly)
        case "schtasks":
            return _schtasks(nightly)
        case "launchd":
            return _launchd(nightly)


def nightly_here(command_line: Sequence[str], scenario: str | None, out: Path | None) -> Nightly:
    """What the command line plays, on this machine. command_line: `sys.argv`. scenario, out: as its flags say."""
    arguments = soak_arguments(command_line)
    if not arguments:
        arguments, scenario = EXAMPLE, EXAMPLE[0]
    return Nightly(
        loadgen=_own_words(command_line[0]),
        arguments=arguments,
        scenario=NO_SCENARIO if scenario is None else scenario,
        out=None if out is None else str(out),
        folder=str(Path.cwd()),
        user=_user(),
    )


def soak_arguments(command_line: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a soak without those that print a recipe. command_line: `sys.argv`."""
    words = command_line[1:]
    arguments = words[words.index("soak") + 1 :] if "soak" in words else ()
    others: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument == FLAG:
            is_value = True
        elif not argument.startswith(f"{FLAG}=") and argument not in _WITHOUT_EFFECT:
            others.append(argument)
    return tuple(others)


def _own_words(program: str) -> tuple[str, ...]:
    path = shutil.which(program)
    if path is not None and Path(path).stem == "loadgen":
        return (os.path.abspath(path),)  # noqa: PTH100  a link stays a link: an upgrade may change where it leads
    return (sys.executable, "-m", "loadgen")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # in a container whose user has no name
        return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _systemd(nightly: Nightly) -> str:
    soak, history = (" ".join(map(_systemd_word, words)) for words in (nightly.soak, nightly.history))
    place = f"User={nightly.user}\nWorkingDirectory={nightly.folder.replace('%', '%%')}"
    return f"""\
# {UNIT_FOLDER}/loadgen-soak.service
[Unit]
Description=loadgen: soak the device for a night
Wants=network-online.target loadgen-awake.service
After=network-online.target loadgen-awake.service
OnSuccess=loadgen-history.service
OnFailure=loadgen-history.service loadgen-alert.service

[Service]
Type=exec
{place}
ExecStart={soak}
# It drains and reports when it is stopped.
TimeoutStopSec=10min

# {UNIT_FOLDER}/loadgen-history.service
[Unit]
Description=loadgen: what changed over the nights
OnFailure=loadgen-alert.service

[Service]
Type=oneshot
{place}
ExecStart={history}

# {UNIT_FOLDER}/loadgen-awake.service
[Unit]
Description=loadgen: no suspend during a soak
StopWhenUnneeded=true

[Service]
Type=exec
ExecStart=systemd-inhibit --what=sleep --who=loadgen --why="a soak runs" sleep infinity

# {UNIT_FOLDER}/loadgen-alert.service
[Unit]
Description=loadgen: say that a soak or a history ended with an error

[Service]
Type=oneshot
# Mail; or a webhook: curl -fsS --data-binary @- https://example.com/hook
ExecStart=/bin/sh -c 'journalctl -u loadgen-soak -u loadgen-history -n 30 | mail -s "loadgen on %H" {ADDRESS}'

# {UNIT_FOLDER}/loadgen-soak.timer
[Unit]
Description=loadgen: a soak every night

[Timer]
OnCalendar=*-*-* 22:00:00
# A night that was missed is not made up by day.
Persistent=false
# true: wakes a suspended machine for it.
WakeSystem=false

[Install]
WantedBy=timers.target
"""


def _systemd_word(word: str) -> str:
    """A word of ExecStart=: in quotes where it needs them; `%` and `$` stand for themselves."""
    plain = word.replace("%", "%%").replace("$", "$$")
    if plain and not set(plain) & set(" \t\n\"'\\;"):
        return plain
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{quoted}"'


def _cron(nightly: Nightly) -> str:
    soak, history = shlex.join(nightly.soak), shlex.join(nightly.history)
    played = f"{soak} >> loadgen-soak.log 2>&1; {history} --quiet > /dev/null 2>&1 || {history} 2>&1"
    line = f"cd {shlex.quote(nightly.folder)} && flock -n .loadgen-soak.lock sh -c {shlex.quote(played)}"
    # In a crontab, % ends the command unless a backslash is before it, in quotes or not.
    escaped = line.replace("%", r"\%")
    return f"""\
# `crontab -e` as {nightly.user}. Cron mails what is printed: the history, when it ends with an error.
MAILTO={ADDRESS}
SHELL=/bin/sh
0 22 * * * {escaped}
"""


def _schtasks(nightly: Nightly) -> str:
    folder = escape(nightly.folder)
    actions = "\n".join(
        f"    <Exec>\n      <Command>{escape(words[0])}</Command>\n"
        f"      <Arguments>{escape(subprocess.list2cmdline(words[1:]))}</Arguments>\n"
        f"      <WorkingDirectory>{folder}</WorkingDirectory>\n    </Exec>"
        for words in (nightly.soak, nightly.history)
    )
    return f"""\
<?xml version="1.0"?>
<!-- Register-ScheduledTask -TaskName loadgen-soak -Xml (Get-Content -Raw loadgen-soak.xml) -->
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>loadgen: soak the device for a night, then say what changed over the nights</Description>
  </RegistrationInfo>
  <Triggers>
    <CalendarTrigger>
      <StartBoundary>2026-01-01T22:00:00</StartBoundary>
      <ScheduleByDay>
        <DaysInterval>1</DaysInterval>
      </ScheduleByDay>
    </CalendarTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{escape(nightly.user)}</UserId>
      <LogonType>S4U</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <StartWhenAvailable>false</StartWhenAvailable>
    <WakeToRun>true</WakeToRun>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>4</Priority>
  </Settings>
  <Actions Context="Author">
{actions}
  </Actions>
</Task>
"""


def _launchd(nightly: Nightly) -> str:
    soak, history = shlex.join(nightly.soak), shlex.join(nightly.history)
    job = {
        "Label": "loadgen-soak",
        "ProgramArguments": ["/bin/sh", "-c", f"caffeinate -i {soak}; {history}"],
        "WorkingDirectory": nightly.folder,
        "StartCalendarInterval": {"Hour": 22, "Minute": 0},
        "ProcessType": "Interactive",
        "StandardOutPath": str(Path(nightly.folder) / "loadgen-soak.log"),
        "StandardErrorPath": str(Path(nightly.folder) / "loadgen-soak.log"),
    }
    return plistlib.dumps(job, sort_keys=False).decode()
