"""Synthetic frames as arrays, and a picture of them."""

from pathlib import Path

import numpy as np

from beam_jobs.sheet import Tile, draw_sheet
from echo_models.phantom import generate_frames


def write_frames(
    folder: Path, *, seed: int, subjects: int, frames_per_clip: int, severity: float
) -> tuple[Path, Path, int]:
    """Write `frames.npz` and `contact_sheet.png`: one clip of each view of each subject.

    Returns:
        The two paths and how many frames there are. The sheet shows the first frame of each clip.
    """
    clips = list(
        generate_frames(seed=seed, subjects=subjects, frames_per_clip=frames_per_clip, severity=severity)
    )
    count = sum(len(clip.frames) for clip in clips)
    folder.mkdir(parents=True, exist_ok=True)
    archive, sheet = folder / "frames.npz", folder / "contact_sheet.png"
    np.savez_compressed(
        archive,
        frames=np.concatenate([clip.frames for clip in clips]),
        fov_masks=np.concatenate([np.broadcast_to(clip.fov_mask, clip.frames.shape) for clip in clips]),
        lv_masks=np.concatenate([clip.lv_masks for clip in clips]),
        views=np.repeat([clip.view for clip in clips], frames_per_clip),
        hypertrophies=np.repeat([str(clip.hypertrophy) for clip in clips], frames_per_clip),
        subjects=np.repeat([clip.subject_id for clip in clips], frames_per_clip),
    )
    tiles = [
        Tile(
            frame=clip.frames[0],
            fov=clip.fov_mask,
            lv=clip.lv_masks[0],
            caption=f"subject {clip.subject_id} · hypertrophy {clip.hypertrophy}",
            verdict=clip.view,
        )
        for clip in clips
    ]
    draw_sheet(tiles, "synthetic frames with their true view").save(sheet, format="PNG", optimize=True)
    return archive, sheet, count
