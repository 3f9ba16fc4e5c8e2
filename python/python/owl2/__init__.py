"""mPLUG-Owl2, the vision-language model, and the models that rate pictures, on ordinary CPUs.

>>> import owl2
>>> model = owl2.Model()
>>> print(model.ask("Describe the image.", images=["assets/cat.png"]))
A cat on a blue background.

``Model()`` is the small model that is part of the package, which knows drawings of some 80 things;
``Model("owl2-q4_k.gguf")`` opens a real one.
"""

from ._answers import Answer, Score, Stream, WordLogit
from ._errors import (
    BugError,
    CapacityError,
    Error,
    FileError,
    InputError,
    ModelError,
    UnfinishedError,
    UsageError,
)
from ._model import Model
from ._one_align import OneAlign
from ._owl2 import __version__
from ._pictures import Picture

__all__ = [
    "Answer",
    "BugError",
    "CapacityError",
    "Error",
    "FileError",
    "InputError",
    "Model",
    "ModelError",
    "OneAlign",
    "Picture",
    "Score",
    "Stream",
    "UnfinishedError",
    "UsageError",
    "WordLogit",
    "__version__",
]
