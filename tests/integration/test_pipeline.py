"""From spool to Parquet with small models whose answers are known."""

import hashlib
import io
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import structlog
from prometheus_client import generate_latest

from beam_jobs import inference, model_handlers, transforms
from beam_jobs.ahead import Ahead
from beam_jobs.claims import pseudonymize_claim
from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.deid.ocr import OcrMode
from beam_jobs.frames import flatten_frames
from beam_jobs.metrics import process_metrics
from beam_jobs.quiet_beam import quiet_beam
from beam_jobs.records import Chunk, Placement, PredictedChunk, SegmentedChunk, StudyClaim
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from dicom_listener.log import configure_logging
from echo_models.bundle import load_bundle_cached
from echo_models.registry import Registry
from echo_models.views import VIEWS
from tests.bright import BRIGHT, DARK, publish_bright, write_bright_registry
from tests.real_files import real_file
from tests.studies import (
    AT_ONCE,
    MARK,
    Sent,
    clip,
    clip_dataset,
    encoded,
    receive,
    report,
    uid,
)

TABLES = ("frames", "clips", "studies", "rejections")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_registry(tmp_path_factory.mktemp("registry") / "models").root


class Site:
    """A root folder with its ledger, and what has come out so far."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        shutil.copytree(models, root / "models")
        self.ledger = Ledger(f"sqlite:///{root / 'ledger.sqlite'}")
        (root / "secret.key").write_bytes(bytes(range(32)))
        (root / "secret.key").chmod(0o600)

    def settings(self, **overrides: Any) -> WorkerSettings:
        return WorkerSettings(root=self.root, http_port=0, poll_s=0.01, **overrides)

    def receive(self, *instances: Sent) -> None:
        receive(self.ledger, self.root / "spool", instances, now=time.time() - 10)

    def work(self, *, ocr: OcrMode = "off", archive: bool = False, **overrides: Any) -> None:
        deid = DeidSettings(root=self.root, ocr=ocr, archive=archive)
        with Worker(self.settings(**overrides), AT_ONCE, deid=deid) as worker:
            worker.run(once=True)

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        if not list((self.root / "results" / table).rglob("*.parquet")):
            return []
        files = self.root / "results" / table / "**" / "*.parquet"
        # Without the order the files' own would show.
        return duckdb.execute(f"SELECT {columns} FROM '{files}' ORDER BY ALL").fetchall()  # noqa: S608

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("results", "pool")
            for path in (self.root / folder).rglob("*")
            if path.is_file() and path.parent.name != ".locks"
        }

    def counts(self) -> dict[str, int]:
        return {state: count for state, count in self.ledger.counts_by_state().items() if count}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Catch what a running worker logs, then put logging back as it was."""
    root = logging.getLogger()
    handlers, filters, level = root.handlers[:], root.filters[:], root.level
    stream = io.StringIO()
    configure_logging(stream=stream)
    quiet_beam()
    yield stream
    root.handlers, root.filters = handlers, filters
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def site(tmp_path: Path, models: Path) -> Site:
    return Site(tmp_path, models)


def study_of_two_clips(number: int) -> list[Sent]:
    return [clip(number, 1, frames=4, grey=BRIGHT), clip(number, 2, frames=3, grey=DARK)]


def test_every_frame_of_every_study_becomes_one_row(site: Site) -> None:
    for number in range(3):
        site.receive(*study_of_two_clips(number))
    site.work()
    assert site.counts() == {"done": 3}
    assert len(site.rows("frames")) == 21
    assert site.rows("frames", "DISTINCT instance_key, frame_index") == site.rows(
        "frames", "instance_key, frame_index"
    )
    assert site.rows("clips", "view, number_of_frames, number_of_frames_declared") == (
        [("a4c", 4, 4)] * 3 + [("plax", 3, 3)] * 3
    )
    assert site.rows("studies", "number_of_instances, number_of_clips, number_of_frames") == [(2, 2, 7)] * 3
    assert site.rows("rejections") == []


def test_only_the_first_two_frames_of_a_four_chamber_clip_are_assessed_for_hypertrophy(site: Site) -> None:
    site.receive(*study_of_two_clips(1), clip(1, 3, frames=1, grey=BRIGHT))
    site.work()
    assert site.rows("frames", "view, frame_index, lvh_probability IS NULL, lv_area_ratio IS NULL") == [
        ("a4c", 0, False, False),
        ("a4c", 0, True, False),  # a still: nothing says that it shows diastole
        ("a4c", 1, False, False),
        ("a4c", 2, True, False),
        ("a4c", 3, True, False),
        ("plax", 0, True, True),
        ("plax", 1, True, True),
        ("plax", 2, True, True),
    ]
    assert site.rows("frames", "DISTINCT view, lv_model, lvh_model") == [
        ("a4c", "lv-bright", "lvh-bright"),
        ("a4c", "lv-bright", None),
        ("plax", None, None),
    ]


def plain_loop(site: Site, claims: Sequence[StudyClaim]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Do what the pipeline does, file by file, without Beam."""
    registry = Registry(site.root / "models")
    bundles = {task: load_bundle_cached(registry.resolve(task)) for task in ("fov", "view", "lv", "lvh")}
    pseudonymizer = Pseudonymizer.from_key_file(site.root / "secret.key")
    rows = {}
    for claim in claims:
        for reference in claim.instances:
            keys = (reference.series_key, reference.instance_key)
            placement = Placement(claim.claim_token, claim.study_key, claim.subject_key, 1, 1, *keys)
            ds = read_instance(site.root / "spool" / reference.path)
            for chunk in flatten_frames(deidentify_instance(ds, placement, pseudonymizer)):
                for row in predicted_rows(chunk, bundles):
                    rows[reference.instance_key, row[0]] = row
    return rows


def predicted_rows(chunk: Chunk, bundles: dict[str, Any]) -> list[tuple[Any, ...]]:
    segmented = inference.segment_field_of_view([chunk], bundles["fov"], frames_per_clip=3, batch_size=64)
    classified = inference.classify_views(segmented, bundles["view"], batch_size=64)
    outlined = inference.segment_left_ventricle(classified, bundles["lv"], batch_size=64)
    assessed = inference.classify_hypertrophy(outlined, bundles["lvh"], batch_size=64)
    kept: PredictedChunk = inference.keep_predictions(assessed[0], pool_frames_per_clip=0)
    return [
        (
            kept.first_frame_index + index,
            VIEWS[int(probabilities.argmax())],
            float(kept.fov_area_ratios[index]),
            float(kept.lv_area_ratios[index]),
            float(kept.lvh_probabilities[index]),
        )
        for index, probabilities in enumerate(kept.view_probabilities)
    ]


def test_the_tables_say_what_a_plain_loop_over_the_files_says(site: Site) -> None:
    for number in range(3):
        site.receive(*study_of_two_clips(number))
    claimed = site.ledger.claim_studies(worker="t", limit=9, lease_s=1, max_attempts=9, now=time.time() - 5)
    pseudonymizer = Pseudonymizer.from_key_file(site.root / "secret.key")
    expected = plain_loop(site, [pseudonymize_claim(study, pseudonymizer) for study in claimed])
    site.work()  # the lease above is over
    received = {
        row[:2]: row[1:]
        for row in site.rows(
            "frames",
            "instance_key, frame_index, view, fov_area_ratio, coalesce(lv_area_ratio, 'nan'), "
            "coalesce(lvh_probability, 'nan')",
        )
    }
    assert received.keys() == expected.keys()
    for key, row in expected.items():
        assert received[key][1] == row[1]
        np.testing.assert_allclose(received[key][2:], row[2:], rtol=1e-5)


def test_one_batch_or_many_give_the_same_bytes(tmp_path: Path, models: Path) -> None:
    sites = []
    for name, size in (("one", 8), ("many", 1)):
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name, models)
        for number in range(3):
            site.receive(*study_of_two_clips(number))
        site.work(studies_per_batch=size)
        sites.append(site.files())
    assert sites[0]
    assert sites[0] == sites[1]


class InTurn:
    """Does nothing ahead, in the place of `beam_jobs.ahead.Ahead`."""

    def __init__(self, **_: int) -> None:
        pass

    def add(self, items: Iterator[Any], *, weight: int) -> Iterator[Any]:
        yield from items

    def rest(self) -> Iterator[Any]:
        return iter(())

    def drop(self) -> None:
        pass

    close = drop


def test_decoding_ahead_changes_no_byte(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "FRAMES_AHEAD", 40)  # two clips of few frames: more must wait
    sites = []
    for name, ahead in (("ahead", Ahead), ("in turn", InTurn)):
        monkeypatch.setattr(transforms, "Ahead", ahead)
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name, models)
        for number in range(3):
            cut_off = clip(number, 3, frames=5)
            site.receive(
                *study_of_two_clips(number),
                Sent(number, 3, cut_off.content[:-9000]),
                clip(number, 4, frames=30),
            )
        site.work()
        assert site.counts() == {"done": 3}
        assert len(site.rows("rejections")) == 3
        sites.append(site.files())
    assert sites[0] == sites[1]


def test_sending_again_what_is_known_changes_nothing(site: Site) -> None:
    site.receive(*study_of_two_clips(1))
    site.work()
    before = site.files()
    site.receive(*study_of_two_clips(1))
    site.work()
    assert site.files() == before


def test_a_new_revision_replaces_every_row_of_the_study(site: Site) -> None:
    site.receive(*study_of_two_clips(1), report(1, 9))
    site.work()
    assert site.rows("studies", "revision, number_of_rejections") == [(1, 1)]
    years = {path.parent.parent.name for path in (site.root / "results" / "frames").rglob("*.parquet")}
    # The same instances, changed: of another year, dark, longer; the report has become a clip.
    changed = [clip(1, n, frames=5, grey=DARK, date="20310517") for n in (1, 2, 9)]
    site.receive(*changed)
    site.work()
    assert site.rows("studies", "number_of_clips, number_of_frames, number_of_rejections") == [(3, 15, 0)]
    assert len(site.rows("frames")) == 15
    assert site.rows("rejections") == []
    assert not list((site.root / "pool").rglob("*.parquet"))
    now_in = {path.parent.parent.name for path in (site.root / "results" / "frames").rglob("*.parquet")}
    assert len(now_in) == 1
    assert now_in != years


def truncated(study: int, instance: int) -> Sent:
    ds = clip_dataset(study, instance, frames=5)
    ds.PixelData = ds.PixelData[: len(ds.PixelData) * 3 // 5]
    return Sent(study, instance, encoded(ds))


def without_pixels(study: int, instance: int) -> Sent:
    ds = clip_dataset(study, instance)
    del ds.PixelData
    return Sent(study, instance, encoded(ds))


def of_unknown_syntax(study: int, instance: int) -> Sent:
    content = encoded(clip_dataset(study, instance))
    # The meta group keeps its length: as many digits, another syntax.
    known, unknown = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"
    assert content.count(known) == 1
    return Sent(study, instance, content.replace(known, unknown))


def test_bad_input_ends_as_rejections_and_the_batch_goes_on(site: Site) -> None:
    bad = {
        "unreadable_header": Sent(1, 1, b"this is no DICOM file" * 99),
        "unsupported_transfer_syntax": of_unknown_syntax(1, 2),
        "no_pixels": without_pixels(1, 3),
        "truncated_pixels": truncated(1, 4),
    }
    site.receive(*bad.values(), clip(1, 5))
    site.receive(*study_of_two_clips(2))
    site.work()
    assert site.counts() == {"done": 2}
    assert site.rows("rejections", "reason, frames_kept") == [
        (reason, 3 if reason == "truncated_pixels" else 0) for reason in sorted(bad)
    ]
    assert site.rows("studies", "number_of_instances, number_of_frames, number_of_rejections") == [
        (2, 7, 0),
        (5, 6, 4),
    ]


def test_bytes_changed_anywhere_never_stop_a_batch(site: Site) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(clip(1, 1).content, np.uint8)
    sent = []
    for number in range(60):
        content = whole.copy()
        places = rng.integers(132, len(content) if number % 2 else 1000, 8)
        content[places] = rng.integers(0, 256, 8)
        sent.append(Sent(1, number, content.tobytes()))
    site.receive(*sent)
    site.work()
    assert site.counts() == {"done": 1}
    ((instances, clips),) = site.rows("studies", "number_of_instances, number_of_clips")
    assert instances == 60
    assert 0 < clips <= 60


def test_a_study_of_only_a_report_is_done_with_a_row_and_no_frames(site: Site) -> None:
    site.receive(report(1, 1))
    site.work()
    assert site.counts() == {"done": 1}
    assert site.rows("studies", "study_year, number_of_clips, study_date") == [(0, 0, None)]
    assert site.rows("rejections", "stage, reason") == [("DeidentifyInstances", "no_pixels")]
    assert site.rows("frames") == []


def test_a_spooled_file_that_was_altered_or_is_gone_is_rejected(site: Site) -> None:
    site.receive(clip(1, 1), clip(1, 2), clip(1, 3))
    first, second, *_ = sorted((site.root / "spool").rglob("*.dcm"))
    first.write_bytes(first.read_bytes() + b"\0")
    second.unlink()
    site.work()
    assert site.rows("rejections", "stage, reason") == [
        ("ReadInstances", "digest_mismatch"),
        ("ReadInstances", "missing_file"),
    ]
    assert site.rows("studies", "number_of_clips") == [(1,)]


def test_a_poison_study_fails_alone_and_the_others_are_done(
    site: Site, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Pseudonymizer.from_key_file(site.root / "secret.key").study_key(uid(2))
    sound = inference.classify_views

    def failing(chunks: Sequence[SegmentedChunk], *arguments: Any, **named: Any) -> Any:
        if poison in {chunk.placement.study_key for chunk in chunks}:
            raise ValueError(f"a message that names {MARK}")
        return sound(chunks, *arguments, **named)

    monkeypatch.setattr(model_handlers, "classify_views", failing)
    for number in range(4):
        site.receive(*study_of_two_clips(number))
    site.work(max_attempts=2)
    assert site.counts() == {"done": 3, "failed": 1}
    failed = site.ledger.show_study(uid(2))
    assert failed.attempts == 2
    assert failed.last_error is not None
    assert failed.last_error.startswith("ValueError at ")
    assert failed.last_error.endswith(" in ClassifyViews")
    assert MARK not in log.getvalue() + failed.last_error
    assert "batch_failed" in log.getvalue()
    assert len(site.rows("studies")) == 3


def test_a_promoted_model_is_used_by_the_next_batch(site: Site, tmp_path: Path) -> None:
    site.receive(*study_of_two_clips(1))
    with Worker(site.settings(), AT_ONCE) as worker:
        worker.run(once=True)
        registry = Registry(site.root / "models")
        publish_bright(registry, "view", "newer", tmp_path / "bundles", always="a2c")
        site.receive(*study_of_two_clips(2))
        worker.run(once=True)
        registry.rollback("view")
        site.receive(*study_of_two_clips(3))
        worker.run(once=True)
    assert site.rows("frames", "DISTINCT view_model, view") == [
        ("view-bright", "a4c"),
        ("view-bright", "plax"),
        ("view-newer", "a2c"),
    ]
    assert site.rows("clips", "view_model, view") == [
        ("view-bright", "a4c"),
        ("view-bright", "a4c"),
        ("view-bright", "plax"),
        ("view-bright", "plax"),
        ("view-newer", "a2c"),
        ("view-newer", "a2c"),
    ]


def test_no_planted_mark_comes_out(site: Site, log: io.StringIO) -> None:
    identifying = [MARK, "Ada", "19310402", "20240517", "2024-05-17", "271828", uid(1)]
    site.receive(*study_of_two_clips(1), report(1, 3), truncated(1, 4), without_pixels(1, 5))
    site.work()
    written = [path for folder in ("results", "pool") for path in (site.root / folder).rglob("*.parquet")]
    assert {path.relative_to(site.root).parts[1] for path in written} == {*TABLES, "audit", "a4c"}
    told = [log.getvalue(), generate_latest(process_metrics().registry).decode()]
    for path in written:
        table = pq.read_table(path)
        told += [str(path.relative_to(site.root)), path.read_bytes().decode("latin-1"), str(table.schema)]
        told += [str(table.to_pylist())]
    for mark in identifying:
        assert not [text for text in told if mark in text], mark
    # A log line has the real time: with a key it would tell by how much the dates are shifted.
    assert "study_written" in log.getvalue()
    for path in written:
        assert path.stem not in log.getvalue()


def test_stored_four_chamber_frames_are_those_of_the_table(site: Site) -> None:
    site.receive(*study_of_two_clips(1))
    site.work(pool_frames_per_clip=2)
    stored = duckdb.execute(
        f"SELECT instance_key, frame_index, view_confidence, octet_length(frame) AS bytes "  # noqa: S608
        f"FROM '{site.root}/pool/a4c/*/*.parquet' ORDER BY frame_index"
    ).fetchall()
    assert [row[1] for row in stored] == [1, 3]
    assert {row[3] for row in stored} == {120 * 160}
    assert {row[:3] for row in stored} <= set(
        site.rows("frames", "instance_key, frame_index, view_confidence")
    )


def test_a_real_clip_of_another_maker_gives_a_row_for_each_frame(site: Site) -> None:
    path = real_file("apical")
    site.receive(Sent(1, 1, path.read_bytes()))
    site.work()
    assert site.rows("clips", "number_of_frames, number_of_frames_declared, rows, columns") == [
        (120, 120, 480, 640)
    ]
    assert len(site.rows("frames")) == 120
    ((area,),) = site.rows("clips", "fov_area_ratio")
    assert 0.05 < area < 0.95
