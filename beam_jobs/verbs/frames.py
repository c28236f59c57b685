"""`echobeam frames`: de-identified frames of DICOM files, to be labeled or learned from.

Exit codes: 0 fine, 1 no frame came of the files, 2 usage or configuration refused.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import dataclasses
import json
from pathlib import Path

import click

from dicom_listener.exit_codes import exit_codes


@click.command(
    epilog="\b\nExamples:\n  echobeam frames ./dicom --out ./frames-to-label\n"
    "  echobeam frames ./mimic-iv-echo --list ./mimic-iv-echo/echo-record-list.csv --out ./mimic-frames"
)
@click.argument("dicom", type=click.Path(path_type=Path))
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration and the secret of the keys.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for `frames.parquet`; an older one is replaced.",
)
@click.option(
    "--list",
    "record_list",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Take the files that MIMIC-IV-ECHO's echo-record-list.csv lists.",
)
@click.option(
    "--frames-per-clip",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Frames spread over each clip; the first is among them.",
)
@click.option(
    "--include-unreviewed",
    is_flag=True,
    help="Also clips whose regions are missing or odd: look at them before you pass them on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def frames(
    *,
    dicom: Path,
    root: Path,
    out: Path,
    record_list: Path | None,
    frames_per_clip: int,
    include_unreviewed: bool,
    as_json: bool,
) -> None:
    """Bring DICOM files through the door, and write their frames as Parquet: 120 x 160, grey, by keys.

    DICOM is a file or a folder. Keys are those that the site's tables have or would have. Label the frames
    with `echobeam label frames`, or learn from them without labels: `echobeam train gan --dataset
    frames:OUT`.
    """
    from beam_jobs.deid import Pseudonymizer
    from beam_jobs.frame_export import NoFramesError, find_files, read_mimic_list, write_frames
    from beam_jobs.settings import SECTION, WorkerSettings
    from dicom_listener.settings import load_section
    from echo_models.errors import DatasetError

    with exit_codes():
        settings = load_section(WorkerSettings, SECTION, root)
        settings.key_file.parent.mkdir(parents=True, exist_ok=True)
        pseudonymizer = Pseudonymizer.from_key_file(settings.key_file)
        try:
            written = write_frames(
                find_files(dicom) if record_list is None else read_mimic_list(record_list),
                out,
                pseudonymizer,
                frames_per_clip=frames_per_clip,
                include_unreviewed=include_unreviewed,
            )
        except DatasetError as error:  # the list is of another form
            raise NoFramesError(str(error)) from error
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(written), "file": str(written.file)}))
        return
    click.echo(
        f"{written.file}: {written.frames} frames of {written.clips} clips of {written.subjects} subjects"
    )
    for reason, count in written.left_out.items():
        click.echo(f"left out: {count} {reason}")
