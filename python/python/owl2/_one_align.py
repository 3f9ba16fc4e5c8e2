"""The scorer of the hub's q-future/one-align, for scripts that were written for it."""

from __future__ import annotations

import os
import sys
from typing import Any, Optional, Sequence, Union

from ._errors import UsageError
from ._model import Model


class OneAlign:
    """Answers ``score`` as the model of q-future/one-align does.

    In a script that has ``AutoModelForCausalLM.from_pretrained("q-future/one-align", ...)``, put
    ``owl2.OneAlign("one-align.gguf")`` in its place. The numbers are those of the authors' rule, not
    rounded to half precision.

    >>> import owl2
    >>> model = owl2.OneAlign()
    >>> scores = model.score(["assets/cat.png"], task_="quality", input_="image")
    >>> scores.shape
    (1,)
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str], None] = None,
        *,
        threads: Optional[int] = None,
        rule: str = "q-align",
    ) -> None:
        self.model = Model(path, threads=threads)
        self._rule = rule

    def score(
        self,
        images: Sequence[Any],
        task_: str = "quality",
        input_: str = "image",
        return_dict: bool = False,
        image_tensor: Any = None,
    ) -> Any:
        """Scores from 1 to 5 of pictures, or of videos where ``input_`` is ``video``.

        A video is a list of frames. The scores are a tensor where torch is loaded, else an array;
        with ``return_dict`` there are the ``logits`` of excellent, good, fair, poor and bad too.
        """
        if image_tensor is not None:
            raise UsageError("image_tensor is not taken; give the pictures as images")
        if input_ not in ("image", "video"):
            raise UsageError(f"input_ is {input_!r}, expected 'image' or 'video'")
        images = list(images)
        are_clips = [isinstance(image, (list, tuple)) for image in images]
        if any(is_clip != (input_ == "video") for is_clip in are_clips):
            raise UsageError(
                f"input_ is {input_!r}; a picture is no list, and a video is a list of frames"
            )
        rated = self.model.score(images, task=task_, rule=self._rule)
        scores = _tensor([score.score for score in rated])
        if not return_dict:
            return scores
        logits = _tensor([list(score.logits.values()) for score in rated])
        return {"logits": logits, "scores": scores}


def _tensor(values: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.tensor(values, dtype=torch.float32)
    import numpy

    return numpy.array(values, dtype=numpy.float32)
