"""Image files -> RGB, whatever mode they were stored in."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


def decode_rgb(file: bytes | str | os.PathLike[str]) -> Image.Image:
    """Decode an image (a path or the bytes of a file) to 8-bit RGB.

    EXIF orientation is applied; 16-bit grey is scaled, not clipped; a transparent image lies on white, as viewers show it;
    grey, palette and CMYK are converted.

    Raises:
        UnreadableImage: missing, empty, truncated, not an image, or too large to be meant (Pillow's bomb limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that Pillow knows, or empty") from error
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    except Exception as error:  # a decoder meets a damaged file with whatever its author thought of
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        full = 65535.0 if image.mode != "F" or values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values / full * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
