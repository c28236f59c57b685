"""Which clips of an archive a view model learns from."""

import dataclasses
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.nightly.view_pool import FRAMES_PER_CLIP, Clip, choose_clips, read_clips
from beam_jobs.pooling.rules import PoolRules
from echo_models.views import VIEWS
from tests.pool_archive import key

RULES = PoolRules()


def clip(
    number: int, view: str = "plax", *, study: str = "", subject: str = "", confidence: float = 0.9
) -> Clip:
    return Clip(
        subject_key=key(subject or f"subject {number}"),
        study_key=key(study or f"study {number}"),
        series_key=key("series"),
        instance_key=key(f"instance {number}"),
        view=view,
        view_confidence=confidence,
        fov_area_ratio=0.4,
    )


def chosen(clips: list[Clip], rules: PoolRules = RULES, limit: int = 1000) -> tuple[list[Clip], Counter[str]]:
    dropped: Counter[str] = Counter()
    kept = choose_clips(iter(clips), rules, limit, frozenset({key("held out")}), dropped)
    return kept, Counter({rule: count for rule, count in dropped.items() if count})


def test_a_clip_is_counted_under_the_first_rule_that_drops_it() -> None:
    clips = [
        clip(1),
        clip(2, subject="held out", confidence=0.1),
        clip(3, confidence=0.1),
        dataclasses.replace(clip(4), fov_area_ratio=0.01),
    ]
    kept, dropped = chosen(clips)
    assert kept == clips[:1]
    assert dropped == dict.fromkeys(
        ("held_out_subject", "low_confidence", "small_field_of_view"), FRAMES_PER_CLIP
    )


def test_caps_of_study_and_subject_hold_and_do_not_depend_on_order() -> None:
    clips = [clip(number, study=f"s{number % 4}", subject=f"p{number % 2}") for number in range(40)]
    rules = PoolRules(max_frames_per_study=6, max_frames_per_subject=8)
    kept, dropped = chosen(clips, rules)
    assert Counter(it.subject_key for it in kept) == {key("p0"): 4, key("p1"): 4}
    assert max(Counter(it.study_key for it in kept).values()) <= 3
    assert dropped == {"over_study_cap": 2 * 28, "over_subject_cap": 2 * 4}
    assert chosen(clips[::-1], rules)[0] == kept


def test_views_share_the_pool_and_what_a_rare_one_leaves_goes_to_the_others() -> None:
    numbers = iter(range(1000))
    clips = [
        clip(next(numbers), view)
        for view, count in zip(VIEWS, (2, 9, 30), strict=False)
        for _ in range(count)
    ]
    kept, dropped = chosen(clips, limit=2 * 26)
    assert [Counter(it.view for it in kept)[view] for view in VIEWS[:3]] == [2, 9, 15]
    assert dropped == {"over_balanced_share": 2 * 15}


def test_clips_that_the_archive_lacks_or_nobody_knows_are_counted(tmp_path: Path) -> None:
    clips = [clip(1), clip(2, "unknown"), clip(3)]
    rows = pa.Table.from_pylist([dataclasses.asdict(it) | {"rows": 600} for it in clips])
    partition = tmp_path / "results" / "clips" / "study_year=2021" / "bucket=0a"
    partition.mkdir(parents=True)
    pq.write_table(rows, partition / "packed-all.parquet")
    for it in clips[:2]:
        it.file(tmp_path / "archive").parent.mkdir(parents=True)
        it.file(tmp_path / "archive").touch()
    dropped: Counter[str] = Counter()
    assert list(read_clips(tmp_path / "results", tmp_path / "archive", dropped)) == clips[:1]
    assert dropped == {"unknown_view": FRAMES_PER_CLIP, "not_in_archive": FRAMES_PER_CLIP}
