"""What comes back from a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional

from . import _owl2


@dataclass(frozen=True)
class Answer:
    """An answer. ``str(answer)`` is its text."""

    text: str
    #: The generated tokens, a final ``</s>`` included.
    ids: List[int] = field(repr=False)
    #: Why it ended: ``end_of_text``, ``stop_text``, ``max_tokens``, ``context_full`` or ``cancelled``.
    stop: str
    #: Whether it is what ``choices`` or ``schema`` ask for, and not only the beginning of it.
    is_fulfilled: bool
    #: Positions of the whole prompt.
    n_prompt: int
    #: Those that pictures take of them.
    n_image: int
    #: What the files of pictures lack.
    warnings: List[str]
    #: What each stage took.
    seconds: Dict[str, float] = field(repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Score:
    """A rating. ``float(score)`` is the number."""

    #: On the rule's own scale; more is better.
    score: float
    #: The same from 0 to 1.
    unit: float
    #: Standard deviation on the rule's scale, for ``q-align`` and ``deqa``.
    deviation: Optional[float]
    #: The words that were looked at; none for ``compare2score``.
    logits: Dict[str, float]
    #: Probabilities of the levels, the best first.
    probabilities: Dict[str, float]
    #: For ``compare2score``, how likely it is better than each anchor, the worst first.
    preferences: List[float]

    def __float__(self) -> float:
        return self.score


@dataclass(frozen=True)
class WordLogit:
    """How likely a word is at the end of a prompt."""

    word: str
    #: Its pieces.
    ids: List[int]
    #: Logit of the first piece.
    logit: float
    #: Logarithm of its probability among all that could follow.
    log_probability: float
    #: Its probability among the words that were asked for.
    probability: float


class Stream(Iterator[str]):
    """The text of an answer, piece by piece as it is written.

    Leaving a ``with`` block, `close`, and the end of the object end the answer.
    """

    def __init__(self, native: _owl2.Stream) -> None:
        self._native = native

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._native)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the answer. What was written already can still be read."""
        self._native.close()

    @property
    def answer(self) -> Optional[Answer]:
        """The whole answer, once the text has ended."""
        fields = self._native.answer()
        return None if fields is None else Answer(**fields)
