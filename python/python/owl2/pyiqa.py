"""A metric for the pyiqa package. Importing this needs neither pyiqa nor torch.

::

    import owl2.pyiqa, pyiqa

    owl2.pyiqa.register()
    metric = pyiqa.create_metric("owl2", path="one-align.gguf")
    metric("photo.jpg")
"""

from __future__ import annotations

import os
from typing import Any, Optional, Union

from ._model import Model


class Metric:
    """Rates pictures as pyiqa's ``qalign`` does, by a model file.

    Takes what pyiqa hands to its metrics, ``[n, 3, height, width]`` from 0 to 1 (an array or a
    tensor), and gives as many scores as an array.

    >>> import numpy
    >>> from owl2.pyiqa import Metric
    >>> metric = Metric()
    >>> metric(numpy.zeros((2, 3, 40, 60))).shape
    (2,)
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str], None] = None,
        *,
        rule: str = "q-align",
        threads: Optional[int] = None,
    ) -> None:
        self.model = Model(path, threads=threads)
        self._rule = rule

    def __call__(self, x: Any, task_: str = "quality", input_: str = "image") -> Any:
        import numpy

        if input_ != "image":
            raise NotImplementedError(f"input type {input_} is not supported")
        x = x.detach().cpu().numpy() if hasattr(x, "detach") else numpy.asarray(x)
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise TypeError(f"the shape is {tuple(x.shape)}, expected [n, 3, height, width]")
        # Cut off rather than rounded, as torchvision's to_pil_image does.
        pictures = (x.astype(numpy.float32) * 255).astype(numpy.uint8).transpose(0, 2, 3, 1)
        rated = self.model.score(list(pictures), task=task_, rule=self._rule)
        return numpy.array([score.score for score in rated], dtype=numpy.float32)


def register(name: str = "owl2") -> None:
    """Makes ``pyiqa.create_metric(name, path=...)`` known; the other arguments are those of `Metric`."""
    import torch
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    class Owl2(torch.nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.metric = Metric(**options)

        def forward(self, x: Any, task_: str = "quality", input_: str = "image") -> Any:
            scores = self.metric(x, task_, input_)
            return torch.as_tensor(scores, device=x.device)

    if Owl2.__name__ not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Owl2)
    DEFAULT_CONFIGS[name] = {
        "metric_opts": {"type": Owl2.__name__},
        "metric_mode": "NR",
        "score_range": "1, 5",
    }
