"""Random changes to training frames; masks and outlines follow what moves the frame."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much a training frame may be changed.

    Attributes:
        rotation_degrees: the most it turns either way (paper: 10).
        shift_ratio: the most it moves, of its height and width (paper: 0.1).
        across_ratio: the most it moves across, of its width, where that differs (paper's ImageNet networks:
            0.15); None for `shift_ratio`.
        jitter: strength of random gamma, contrast, brightness and black, 0 for none. Not in the paper: its
            frames of training and use came from the same machines, the phantom's do not.
        mask_growth_px: how far a mask may shrink (negative) and grow. Not in the paper: in use masks
            are another network's, and never exact.
        unmasked_share: of frames that stay unmasked, for the same reason.
        cutout_ratio: side of a square that is blanked, of the frame's height; 0 for none. Not in the
            paper: part of the strong changes of FixMatch.
    """

    rotation_degrees: float = 10.0
    shift_ratio: float = 0.1
    jitter: float = 0.0
    mask_growth_px: tuple[int, int] = (0, 0)
    unmasked_share: float = 0.0
    cutout_ratio: float = 0.0
    across_ratio: float | None = None


NO_AUGMENTATION = Augmentation(rotation_degrees=0.0, shift_ratio=0.0)


def move(
    layers: tuple[Frames, ...], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Frames, ...]:
    """Turn and shift frames at random; what moves in is black.

    Args:
        layers: arrays [N, H, W], uint8: frames, and masks that must move with them.
        augmentation: how far.
        rng: each frame draws its own angle and shifts.

    Returns:
        as many arrays of the same shapes, sampled by nearest neighbour.
    """
    count, rows, columns = layers[0].shape
    angles = np.deg2rad(rng.uniform(-1, 1, count) * augmentation.rotation_degrees)
    down_ratio, across_ratio = augmentation.shift_ratio, augmentation.across_ratio
    ratios = (down_ratio if across_ratio is None else across_ratio, down_ratio)
    shifts = rng.uniform(-1, 1, (count, 2)) * ratios * (columns, rows)
    moved = tuple(np.empty_like(layer) for layer in layers)
    for n, (angle, (across, down)) in enumerate(zip(angles, shifts, strict=True)):
        cosine, sine = np.cos(angle), np.sin(angle)
        x, y = columns / 2, rows / 2  # turned about the middle
        coefficients = (
            cosine,
            -sine,
            x - cosine * (x + across) + sine * (y + down),
            sine,
            cosine,
            y - sine * (x + across) - cosine * (y + down),
        )
        for source, target in zip(layers, moved, strict=True):
            image = Image.fromarray(source[n])
            turned = image.transform(
                (columns, rows), Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST
            )
            target[n] = np.asarray(turned)
    return moved


def jitter(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Change gamma, contrast, brightness and the level of black of each frame at random.

    Black is not 0 on every machine: a public apical clip has 1 all over its background.

    Args:
        frames: [N, H, W], uint8.
        strength: 0 for no change; 1 draws gamma from 1/2 to 2.
        rng: each frame draws its own.

    Returns:
        [N, H, W], uint8.
    """
    levels = np.arange(256) / 255
    count = len(frames)
    gamma = 2.0 ** (rng.uniform(-1, 1, count) * strength)
    contrast = 1 + rng.uniform(-0.3, 0.3, count) * strength
    brightness = rng.uniform(-0.05, 0.05, count) * strength
    black = rng.integers(0, 5, count) * (rng.random(count) < 0.4 * strength)
    changed = np.empty_like(frames)
    for n in range(count):
        curve = np.clip(levels ** gamma[n] * contrast[n] + brightness[n], 0, 1) * 255
        curve[0] = 0
        curve = np.maximum(curve, black[n])
        changed[n] = curve.astype(np.uint8)[frames[n]]
    return changed


def cut_out(frames: Frames, ratio: float, rng: np.random.Generator) -> Frames:
    """Blank a square of each frame, at random and all of it inside (Cutout, DeVries and Taylor 2017).

    Args:
        frames: [N, H, W], uint8.
        ratio: its side, of the height; 0 to 1.
        rng: each frame draws its own place.

    Returns:
        [N, H, W], uint8, a new array.
    """
    count, rows, columns = frames.shape
    side = round(ratio * rows)
    tops = rng.integers(0, rows - side, count, endpoint=True)
    lefts = rng.integers(0, max(columns - side, 0), count, endpoint=True)
    blanked = frames.copy()
    for frame, top, left in zip(blanked, tops, lefts, strict=True):
        frame[top : top + side, left : left + side] = 0
    return blanked


def change(frames: Frames, augmentation: Augmentation, rng: np.random.Generator) -> Frames:
    """Change frames that have no mask beside them: masked already, or never.

    Args:
        frames: [N, H, W], uint8.
        augmentation: how much; what it says of masks is left out.
        rng: each frame draws its own.

    Returns:
        [N, H, W], uint8.
    """
    if augmentation.rotation_degrees or augmentation.shift_ratio:
        (frames,) = move((frames,), augmentation, rng)
    if augmentation.jitter:
        frames = jitter(frames, augmentation.jitter, rng)
    return cut_out(frames, augmentation.cutout_ratio, rng) if augmentation.cutout_ratio else frames


def disturb_masks(masks: Masks, augmentation: Augmentation, rng: np.random.Generator) -> Masks:
    """Grow or shrink each mask at random, or open it to the whole frame.

    Args:
        masks: [N, H, W], bool.
        augmentation: `mask_growth_px` and `unmasked_share`.
        rng: each mask draws its own.

    Returns:
        [N, H, W], bool, a new array.
    """
    low, high = augmentation.mask_growth_px
    growths = rng.integers(low, high, len(masks), endpoint=True)
    opened = rng.random(len(masks)) < augmentation.unmasked_share
    disturbed = masks.copy()
    for n, growth in enumerate(growths):
        if opened[n]:
            disturbed[n] = True
        elif growth > 0:
            disturbed[n] = ndimage.maximum_filter(masks[n].view(np.uint8), 2 * growth + 1) > 0
        elif growth < 0:
            disturbed[n] = ndimage.minimum_filter(masks[n].view(np.uint8), 1 - 2 * growth) > 0
    return disturbed
