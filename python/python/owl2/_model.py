"""A model, and what it can be asked."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence, Type, Union, cast, overload

from . import _owl2
from ._answers import Answer, Score, Stream, WordLogit
from ._errors import Error
from ._pictures import Picture, native, natives

if TYPE_CHECKING:
    from typing import Literal

    import numpy

    # Lists and tuples: a string is one path. `Sequence` says so since elements may be of any kind.
    Subject = Union[Picture, Sequence[Picture]]
    Subjects = Sequence[Subject]


class Model:
    """A model file, ready to answer; without a path, the small model that is part of the package.

    Weights are mapped from the file, so several processes share one copy in memory. Threads may ask
    one model at once: they take turns, and each request has all ``threads``, of which there are as
    many as physical cores unless said otherwise. The interpreter is free while a request is
    computed, and Ctrl-C ends it.

    After ``os.fork`` only the process that opened the model can ask it. A model that is pickled is
    opened again where it is unpickled.

    >>> import owl2
    >>> model = owl2.Model(threads=1)
    >>> model
    owl2.Model(None, threads=1)
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str], None] = None,
        *,
        threads: Optional[int] = None,
    ) -> None:
        self._path = None if path is None else os.fspath(path)
        self._threads = threads
        self._native = _owl2.Model(self._path, threads)

    def __repr__(self) -> str:
        return f"owl2.Model({self._path!r}, threads={self.threads})"

    def __reduce__(self) -> Any:
        return _reopened, (type(self), self._path, self._threads)

    @property
    def path(self) -> Optional[str]:
        """The model file, or None for the model that is part of the package."""
        return self._path

    @property
    def threads(self) -> int:
        """Worker threads."""
        return self._native.threads

    @property
    def score_rule(self) -> Optional[str]:
        """The rule that the file names for `score`."""
        return self._native.score_rule

    @overload
    def ask(
        self,
        prompt: str,
        images: Subject = (),
        *,
        stream: Literal[False] = False,
        system: Optional[str] = None,
        temperature: float = 0.0,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        seed: int = 0,
        max_tokens: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        context: Optional[int] = None,
        aspect: Optional[str] = None,
        choices: Optional[Sequence[str]] = None,
        schema: Union[str, Mapping[str, Any], None] = None,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        prompt: str,
        images: Subject = (),
        *,
        stream: Literal[True],
        system: Optional[str] = None,
        temperature: float = 0.0,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        seed: int = 0,
        max_tokens: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        context: Optional[int] = None,
        aspect: Optional[str] = None,
        choices: Optional[Sequence[str]] = None,
        schema: Union[str, Mapping[str, Any], None] = None,
    ) -> Stream: ...

    def ask(
        self,
        prompt: str,
        images: Subject = (),
        *,
        stream: bool = False,
        system: Optional[str] = None,
        temperature: float = 0.0,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        seed: int = 0,
        max_tokens: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        context: Optional[int] = None,
        aspect: Optional[str] = None,
        choices: Optional[Sequence[str]] = None,
        schema: Union[str, Mapping[str, Any], None] = None,
    ) -> Union[Answer, Stream]:
        """Answers a question about pictures, or about none.

        Pictures replace the ``<|image|>`` markers of the prompt in order; without markers they stand
        before it. They are seen as people see them: upright, and transparency on white.

        stream: gives an iterator over the text, as it is written, in place of the answer.
        system: the system prompt, in place of the model's own.
        temperature: 0 always takes the likeliest token; more chooses at random, by ``seed``.
        top_k, top_p: choose among the ``top_k`` likeliest, with ``top_p`` of the probability.
        max_tokens: the longest answer; 512 unless said otherwise.
        stop: texts before which the answer ends.
        context: positions for prompt, pictures and answer.
        aspect: ``squash``, ``pad`` or ``crop`` pictures that are not square.
        choices: the answer is one of these texts.
        schema: the answer is JSON of this schema, given as a dict or as text.

        >>> import owl2
        >>> model = owl2.Model()
        >>> model.ask("How many apples are there?", "assets/three-apples.png").text
        '3'
        >>> "".join(model.ask("Describe the image.", "assets/cat.png", stream=True))
        'A cat on a blue background.'
        >>> model.ask("Is there a dog?", "assets/cat.png", choices=["yes", "no"]).text
        'no'
        """
        settings = {
            "system": system,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "max_tokens": max_tokens,
            "stop": [stop] if isinstance(stop, str) else list(stop),
            "context": context,
            "aspect": aspect,
            "choices": None if choices is None else list(choices),
            "schema": json.dumps(schema) if isinstance(schema, Mapping) else schema,
        }
        pictures = natives(images, as_shown=True)
        if stream:
            return Stream(self._native.stream(prompt, pictures, settings))
        return Answer(**self._native.ask(prompt, pictures, settings))

    @overload
    def score(  # type: ignore[overload-overlap]
        self,
        images: Picture,
        *,
        task: str = "quality",
        rule: Optional[str] = None,
        prompts: str = "hub",
        boost: bool = False,
        objective: str = "normal",
        anchors: Optional[Sequence[Picture]] = None,
        aspect: Optional[str] = None,
        as_shown: bool = False,
        errors: Literal["raise"] = "raise",
    ) -> Score: ...

    @overload
    def score(
        self,
        images: Subjects,
        *,
        task: str = "quality",
        rule: Optional[str] = None,
        prompts: str = "hub",
        boost: bool = False,
        objective: str = "normal",
        anchors: Optional[Sequence[Picture]] = None,
        aspect: Optional[str] = None,
        as_shown: bool = False,
        errors: Literal["raise"] = "raise",
    ) -> List[Score]: ...

    @overload
    def score(
        self,
        images: Subjects,
        *,
        task: str = "quality",
        rule: Optional[str] = None,
        prompts: str = "hub",
        boost: bool = False,
        objective: str = "normal",
        anchors: Optional[Sequence[Picture]] = None,
        aspect: Optional[str] = None,
        as_shown: bool = False,
        errors: Literal["return"],
    ) -> List[Union[Score, Error]]: ...

    def score(
        self,
        images: Union[Picture, Subjects],
        *,
        task: str = "quality",
        rule: Optional[str] = None,
        prompts: str = "hub",
        boost: bool = False,
        objective: str = "normal",
        anchors: Optional[Sequence[Picture]] = None,
        aspect: Optional[str] = None,
        as_shown: bool = False,
        errors: str = "raise",
    ) -> Any:
        """Rates a picture, or each of a list. A list in the list holds the frames of one video.

        Pictures are decoded as the authors' code does, by Pillow's ``convert("RGB")``.

        task: ``quality``, ``aesthetics`` or, in the singular as pyiqa asks, ``aesthetic``.
        rule: ``q-align``, ``deqa``, ``q-instruct`` or ``compare2score``; the file's own by default.
        prompts: those of the published model (``hub``) or of the authors' ``scripts``.
        boost: nine words in place of three, for ``q-instruct``.
        objective: ``normal`` or ``sigmoid``, for ``compare2score``.
        anchors: the five pictures that ``compare2score`` compares with, the worst first.
        aspect: ``squash``, ``pad`` or ``crop``; the rule's own by default.
        as_shown: whether pictures are turned upright, and transparency is white.
        errors: ``raise`` the first, or ``return`` each in the place of its score.

        >>> import owl2
        >>> model = owl2.Model()
        >>> score = model.score("assets/cat.png", rule="q-align")
        >>> 1 <= score.score <= 5
        True
        >>> len(model.score(["assets/cat.png", "assets/two-foxes-and-a-tree.png"], rule="q-align"))
        2
        """
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is {errors!r}, expected 'raise' or 'return'")
        is_one = not isinstance(images, (list, tuple))
        subjects: Sequence[Any] = [images] if is_one else cast("Sequence[Any]", images)
        options = {
            "task": task,
            "rule": rule,
            "prompts": prompts,
            "boost": boost,
            "objective": objective,
            "anchors": None if anchors is None else natives(list(anchors), as_shown),
            "aspect": aspect,
            "as_shown": as_shown,
        }
        given = [
            (isinstance(subject, (list, tuple)), natives(subject, as_shown)) for subject in subjects
        ]
        scores = [_score(rated) for rated in self._native.score(given, options)]
        if errors == "raise":
            for score in scores:
                if isinstance(score, Error):
                    raise score
        return scores[0] if is_one else scores

    def word_logits(
        self,
        prompt: str,
        words: Sequence[str],
        images: Subject = (),
        *,
        raw: bool = False,
        first_piece: bool = False,
        aspect: Optional[str] = None,
        as_shown: bool = False,
    ) -> List[WordLogit]:
        """How likely words are at the end of a prompt. One pass, and no new token.

        raw: the prompt is whole, and ``<s>`` and ``</s>`` count in it; else it is what a user says.
        first_piece: only the first piece of each word counts.

        >>> import owl2
        >>> model = owl2.Model()
        >>> yes, no = model.word_logits("Is there a cat?", ["yes", "no"], "assets/cat.png")
        >>> yes.probability > no.probability
        True
        """
        options = {
            "prompt": prompt,
            "words": list(words),
            "pictures": natives(images, as_shown),
            "raw": raw,
            "first_piece": first_piece,
            "aspect": aspect,
            "as_shown": as_shown,
        }
        return [WordLogit(**fields) for fields in self._native.word_logits(options)]

    def embed_image(
        self, image: Picture, *, aspect: Optional[str] = None, as_shown: bool = True
    ) -> numpy.ndarray:
        """What the decoder reads of a picture: ``[n_rows, hidden_size]``, float32.

        mPLUG-Owl2 has 65 rows a picture, the small model that is part of the package 17.

        >>> import owl2
        >>> owl2.Model().embed_image("assets/cat.png").shape
        (17, 256)
        """
        import numpy

        n_rows, rows = self._native.embed_image(native(image, as_shown), aspect, as_shown)
        return numpy.frombuffer(rows, dtype=numpy.float32).reshape(n_rows, -1)

    def tokenize(self, text: str, *, special: bool = False) -> List[int]:
        """The ids of a text, after ``<s>``. Control tokens count in it only where ``special`` says so.

        >>> import owl2
        >>> model = owl2.Model()
        >>> ids = model.tokenize("a cat")
        >>> model.detokenize(ids)
        'a cat'
        """
        return self._native.tokenize(text, special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids, in which control tokens are spelled out where ``special`` says so."""
        return self._native.detokenize(list(ids), special)


def _reopened(of: Type[Model], path: Optional[str], threads: Optional[int]) -> Model:
    return of(path, threads=threads)


def _score(rated: Any) -> Union[Score, Error]:
    if isinstance(rated, Error):
        return rated
    rated["logits"] = dict(rated["logits"])
    rated["probabilities"] = dict(rated["probabilities"])
    return Score(**rated)
