"""The quality of answers as data: lines of `quality.jsonl`, and the block of a stage in `summary.json`."""

from typing import Final, Literal

from msgspec import Struct

SCORER: Final = "key_points/1"
"""The name of the scorer (`loadgen.analysis.scorer`), with the version of its rules."""
Span = tuple[int, int]
"""A place in a text: its start and its end, in characters."""

QualityFlag = Literal[
    "empty", "refused", "wrong_language", "repeated", "copied", "truncated", "unspaced", "failed", "cancelled", "shed"
]
"""What is wrong with an answer, or why there is none. failed: the request failed, whatever its outcome."""


class ScoredAnswer(Struct, frozen=True, kw_only=True):
    """The quality of the answer to one measured request: a line of `quality.jsonl`. Every request has one, so that a
    request that failed counts: its quality is 0, since it helped nobody."""

    scorer: str
    """The scorer and the version of its rules: `key_points/1`."""
    model: str
    target: str
    level: str
    index: int
    prompt_id: str
    text_sha256: str | None
    """As in `requests.jsonl`; None if there is no answer."""
    quality: float | None
    """0 to 100. None if the prompt has no key points, if its language has no spaces between words, or if the request
    was cancelled or shed by us, which says nothing about the model."""
    covered: tuple[float, ...] = ()
    """For each key point of the prompt: how much of it the answer says, 0 to 1."""
    mentioned: tuple[float, ...] = ()
    """The same without regard to figures and names."""
    supported: float | None = None
    """The share of the answer's figures and names that its prompt has. None if there is no answer, or if it need not
    keep to its prompt, since no key points come from it."""
    words: int = 0
    flags: tuple[QualityFlag, ...] = ()
    places: tuple[Span | None, ...] = ()
    """For each key point: the characters of the answer that say it; None if it is not mentioned."""
    unsupported: tuple[Span, ...] = ()
    """The characters of the figures and names that the prompt does not have."""
    distinct: float | None = None
    """The share of the answer's runs of four words that are the first of their kind."""
    copied: float | None = None
    """The share of its words in runs of 8 words of the prompt."""
    rouge_l: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it says something about the model: it was not cancelled or shed."""
        return not {"cancelled", "shed"} & set(self.flags)

    @property
    def is_answer(self) -> bool:
        """Whether there is an answer: it neither failed nor was left out."""
        return self.counts and "failed" not in self.flags


class UnderLoad(Struct, frozen=True, kw_only=True):
    """The quality at the highest level beside that at the lowest, paired by prompt."""

    lowest: str
    """The lowest level."""
    prompts: int
    """How many prompts have a mark at both levels."""
    difference: float | None
    """The mean of the quality at this level minus that at the lowest."""
    ci: tuple[float, float] | None
    """Its 95 % interval by Student's t, over prompts."""
    same_text: float | None
    """The share of prompts whose answers are the same text at both levels; None if answers are sampled at a
    temperature above 0."""
    verdict: Literal["unchanged", "lower", "higher", "unknown"]
    """unchanged: the interval is within 3 points of 0, over at least 16 prompts. lower: below 0; higher: above."""


class Quality(Struct, frozen=True, kw_only=True):
    """The quality of the answers of a stage. All means are over prompts, whose own answers are averaged first."""

    scorer: str
    prompts: int
    """How many prompts have a mark."""
    answers: int
    """How many answers were scored."""
    failed: int
    """How many requests failed; each counts as quality 0."""
    left_out: int
    """How many requests were cancelled or shed, or have no record because the run was killed; they enter no mean."""
    mean: float | None
    """0 to 100; None if no prompt has a mark."""
    ci: tuple[float, float] | None
    """Its 95 % interval by Student's t over prompts, within 0 and 100; None for fewer than two prompts."""
    covered: float | None
    mentioned: float | None
    """The mean share of the key points that is said; mentioned: without regard to figures and names."""
    supported: float | None
    """The mean share of the figures and names of an answer that its prompt has."""
    rouge_l: float | None
    flags: dict[str, int]
    """By flag, how many answers have it."""
    same_text: float | None
    """The share of prompts, of those asked more than once, whose answers at this stage are all the same text. None if
    no prompt was answered twice, or if answers are sampled at a temperature above 0."""
    under_load: UnderLoad | None = None
    """Of the highest level of a model that was played at several levels."""
