"""Pictures of any kind, as the native half takes them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, List, Sequence, Tuple, Union, cast

if TYPE_CHECKING:
    import numpy
    import PIL.Image

Picture = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, "PIL.Image.Image", "numpy.ndarray"
]
"""A picture: the path or the bytes of a file, a PIL image, or an array.

An array is ``uint8`` (or ``uint16``, of which the upper byte counts) and ``[height, width]`` or
``[height, width, channels]``, where the channels are gray, RGB or RGBA.
"""

Native = Union[str, bytes, Tuple[int, int, bytes]]


def native(picture: Picture, as_shown: bool) -> Native:
    """A picture for the native half: a path, the bytes of a file, or width, height and RGB.

    ``as_shown`` is as people see it: turned upright, and transparency on white. Otherwise it is as
    ``picture.convert("RGB")`` of Pillow sees it.
    """
    if isinstance(picture, (str, os.PathLike)):
        return os.fsdecode(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    # Whoever has an image or an array has loaded its module.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(picture, pil.Image):
        return _of_image(picture, as_shown)
    np = sys.modules.get("numpy")
    if np is not None and isinstance(picture, np.ndarray):
        return _of_array(picture, as_shown)
    raise TypeError(
        "a picture is a path, the bytes of a file, a PIL image or a NumPy array, "
        f"not {type(picture).__name__}"
    )


def natives(pictures: Union[Picture, Sequence[Picture]], as_shown: bool) -> List[Native]:
    """The pictures of a list or tuple, or one."""
    if isinstance(pictures, (list, tuple)):
        return [native(picture, as_shown) for picture in pictures]
    return [native(cast("Picture", pictures), as_shown)]


def _of_image(image: Any, as_shown: bool) -> Native:
    from PIL import ImageOps

    if as_shown:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        import numpy as np

        samples = np.asarray(image)
        samples = samples >> 8 if as_shown else samples
        return _of_array(samples.clip(0, 255).astype(np.uint8), as_shown)
    is_clear = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if as_shown and is_clear:
        import numpy as np

        return _of_array(np.asarray(image.convert("RGBA")), as_shown)
    image = image.convert("RGB")
    return image.width, image.height, image.tobytes()


def _of_array(array: Any, as_shown: bool) -> Native:
    import numpy as np

    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise TypeError(
            f"an array of {array.dtype} is no picture; expected uint8, such as "
            "(array * 255).astype(numpy.uint8) where 1 is white"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise TypeError(
            f"an array of the shape {array.shape} is no picture; expected [height, width] or "
            "[height, width, channels] with 1, 3 or 4 channels"
        )
    if array.shape[2] == 4:
        rgb, alpha = array[:, :, :3], array[:, :, 3:].astype(np.uint16)
        # As the native half puts the colours of a file on white.
        white = (rgb * alpha + 255 * (255 - alpha) + 127) // 255
        array = white.astype(np.uint8) if as_shown else rgb
    elif array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    height, width, _ = array.shape
    return width, height, array.tobytes()
