"""`echobeam phantom`: synthetic frames with exact labels, and synthetic DICOM studies."""

import json
from pathlib import Path

import click

_ROOT = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder below which `phantom/` is written where --out is not given.",
)
_OUT = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to, made if absent."
)
_SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same bytes."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")


@click.group(epilog="\b\nExample:\n  echobeam phantom studies --seed 7 --out ./phantom-studies")
def phantom() -> None:
    """Write synthetic frames or DICOM studies of a procedural heart."""


@phantom.command(
    epilog="\b\nExample:\n  echobeam phantom studies --seed 7 --out ./phantom-studies\n"
    "  storescu -xy -aec ECHOBEAM 127.0.0.1 11112 ./phantom-studies/study-7/*.dcm"
)
@_ROOT
@_OUT
@_SEED
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Studies, with seeds from --seed on.",
)
@click.option(
    "--frames-per-clip",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Frames of each clip.",
)
@click.option("--lvh/--no-lvh", default=None, help="With or without hypertrophy; else the seed decides.")
@_JSON
def studies(
    *,
    root: Path,
    out: Path | None,
    seed: int,
    count: int,
    frames_per_clip: int,
    lvh: bool | None,
    as_json: bool,
) -> None:
    """Write DICOM studies of all fifteen views, one clip each, as a machine would send them."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    from beam_jobs.phantom_studies import PhantomStudy  # noqa: PLC0415

    folder = out or root / "phantom"
    written = []
    for study_seed in range(seed, seed + count):
        study = PhantomStudy(study_seed, frames_per_clip=frames_per_clip, lvh=lvh)
        place = folder / f"study-{study_seed}"
        instances = track(
            study.write(place),
            total=len(study.views),
            description=f"study {study_seed}",
            console=Console(stderr=True),
            disable=not Console(stderr=True).is_terminal,
        )
        written.append(
            {
                "folder": str(place),
                "instances": len(list(instances)),
                "hypertrophy": study.subject.hypertrophy,
                "study_instance_uid": study.study_instance_uid,
            }
        )
    if as_json:
        click.echo(json.dumps(written, indent=2))
        return
    for study_written in written:
        click.echo(
            f"{study_written['folder']}: {study_written['instances']} clips, "
            f"hypertrophy {study_written['hypertrophy']}"
        )


@phantom.command(epilog="\b\nExample:\n  echobeam phantom frames --subjects 2 --out ./phantom-frames")
@_ROOT
@_OUT
@_SEED
@click.option(
    "--subjects", type=click.IntRange(min=1), default=1, show_default=True, help="Subjects to scan."
)
@click.option(
    "--frames-per-clip", type=click.IntRange(min=1), default=2, show_default=True, help="Frames of each clip."
)
@click.option(
    "--severity",
    type=click.FloatRange(0, 2),
    default=1.0,
    show_default=True,
    help="Strength of the artefacts; 0 is a textbook.",
)
@_JSON
def frames(
    *,
    root: Path,
    out: Path | None,
    seed: int,
    subjects: int,
    frames_per_clip: int,
    severity: float,
    as_json: bool,
) -> None:
    """Write frames with masks and labels as one .npz, and a contact sheet to look at.

    \b
    frames         [N, 120, 160]  uint8
    fov_masks      [N, 120, 160]  bool   field of view
    lv_masks       [N, 120, 160]  bool   left ventricle, four-chamber frames
    views          [N]            text
    hypertrophies  [N]            text
    subjects       [N]            integer
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped
    from beam_jobs.phantom_frames import write_frames  # noqa: PLC0415

    folder = out or root / "phantom"
    archive, sheet, count = write_frames(
        folder, seed=seed, subjects=subjects, frames_per_clip=frames_per_clip, severity=severity
    )
    if as_json:
        click.echo(json.dumps({"frames": str(archive), "contact_sheet": str(sheet), "count": count}))
    else:
        click.echo(f"{archive}: {count} frames\n{sheet}")
