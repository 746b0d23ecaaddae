"""The sink that draws a progress bar on standard error. Measures nothing."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loadgen.live.sink import EndedCounts, NullSink, StageStart
from loadgen.record import Record
from loadgen.redact import printable


class Bar(NullSink):
    """Progress on standard error: one bar for each stage on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._shown = self._console.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # Drawn only four times a second, because on an edge device the bar takes CPU from the model.
        self._progress = Progress(
            *columns, console=self._console, refresh_per_second=4, disable=not self._shown, transient=True
        )
        self._task: TaskID | None = None
        self._work: TaskID | None = None
        self._failed = 0
        self._title = ""
        self._known = ""

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def announce(self, text: str) -> None:
        if self._shown:
            self._progress.console.print(printable(text), markup=False, highlight=False)

    def begin_run(self, title: str) -> None:
        self.announce(title)

    def warn(self, text: str) -> None:
        self.announce(text)

    def work(self, title: str, share: float | None) -> None:
        """Work before a stage that takes a while, with a bar if it is known how much is done."""
        if share is None:
            self._end_work()
            self.announce(title)
            return
        if self._work is None:
            self._work = self._progress.add_task(printable(title), total=100)
        self._progress.update(self._work, description=printable(title), completed=share * 100)
        if share >= 1:
            self._end_work()

    def _end_work(self) -> None:
        if self._work is not None:
            self._progress.remove_task(self._work)
            self._work = None

    def start(self, stage: StageStart) -> None:
        bound = "" if stage.duration_s is None else f", at most {stage.duration_s:g} s"
        self.begin(f"{', '.join(stage.models)} {stage.title}{bound}", 0, stage.count)

    def begin(self, title: str, completed: int, total: int | None) -> None:
        """Begin another bar, of which `completed` is done already."""
        self._end_work()  # if a model was skipped, the bar of its download is still there
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._failed, self._title, self._known = 0, printable(title), ""
        self._task = self._progress.add_task(self._title, total=total, completed=completed)

    def record(self, record: Record) -> None:
        if record.phase == "measured":
            self.take_counts(EndedCounts(1, int(record.outcome != "ok")))

    def take_counts(self, counts: EndedCounts) -> None:
        if self._task is None:
            return
        self._progress.advance(self._task, counts.ended)
        if counts.failed:
            self._failed += counts.failed
            self._describe(self._task)

    def known(self, text: str) -> None:
        self._known = printable(text)
        if self._task is not None:
            self._describe(self._task)

    def _describe(self, task: TaskID) -> None:
        texts = (self._title, self._known, f"{self._failed} failed" if self._failed else "")
        self._progress.update(task, description=" · ".join(text for text in texts if text))
