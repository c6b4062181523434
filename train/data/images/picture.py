"""Opens image files."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from train.runtime.errors import UserError

FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Those that Pillow decodes itself: it hands PostScript, whatever its file is called, to Ghostscript."""


def opened(path: Path, mode: str | None = None) -> Image.Image:
  """Opens an image file, rotated by its EXIF orientation.

  Args:
    path: of one of ``FORMATS``.
    mode: of Pillow, as L or RGB; None is L for a gray image and RGB for others.
  """
  if path.exists() and not path.is_file():
    raise UserError(f'{path} is no image file')
  try:
    with warnings.catch_warnings(action='ignore'):
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(path, formats=FORMATS) as file:
        _check(path, file)
        own = 'L' if file.mode in ('1', 'L', 'LA') else 'RGB'
        return ImageOps.exif_transpose(file).convert(mode or own)
  except UserError:
    raise
  except UnidentifiedImageError as error:
    raise UserError(f'{path} is not an image that can be read; give PNG, JPEG or the like') from error
  except MemoryError as error:
    raise UserError(f'cannot read the image {path}: it is too large') from error
  except Exception as error:  # the decoders raise whatever a damaged file leads them to
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
    raise UserError(f'cannot read the image {path}: {reason}') from error


def _check(path: Path, image: Image.Image) -> None:
  """Refuses an image that the conversion would clip or guess at."""
  if (frames := getattr(image, 'n_frames', 1)) > 1:
    raise UserError(f'{path} has {frames} frames: give an image of one')
  if image.mode.startswith(('I', 'F')):
    raise UserError(f'{path} has more than 8 bits a pixel: give an image of 8')
  if image.has_transparency_data and np.asarray(image.convert('RGBA'))[..., 3].min() < 255:
    raise UserError(f'{path} is transparent in part: give an opaque image')
