"""The pool by plain Python, frame by frame: what the job must agree with."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from beam_jobs.pooling.rules import PoolRules, Rule
from tests.pool_archive import StoredFrame, key

_WORD = (1 << 64) - 1


def rank(frame: StoredFrame) -> int:
    """SplitMix64's last step over the head of the instance's key and the frame's index."""
    mixed = (int(key(frame.instance)[:16], 16) + frame.index * 0x9E3779B97F4A7C15) & _WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _WORD
    return mixed ^ (mixed >> 31)


def plain_pool(
    frames: Iterable[StoredFrame], rules: PoolRules, *, held_out: Collection[str] = ()
) -> tuple[list[StoredFrame], Counter[str]]:
    """Give the frames of the pool, in the dataset's order, and how many each rule dropped."""
    dropped: Counter[str] = Counter()
    passing: list[StoredFrame] = []
    for frame in frames:
        broken = next((rule for rule, holds in _alone(frame, rules, held_out) if not holds), None)
        if broken is None:
            passing.append(frame)
        else:
            dropped[broken] += 1
    for rule, group, limit in (
        (Rule.DUPLICATE, lambda frame: frame.texture, 1),
        (Rule.OVER_STUDY_CAP, lambda frame: frame.study, rules.max_frames_per_study),
        (Rule.OVER_SUBJECT_CAP, lambda frame: frame.subject, rules.max_frames_per_subject),
    ):
        kept = [frame for of_key in _grouped(passing, group) for frame in sorted(of_key, key=rank)[:limit]]
        dropped[rule] += len(passing) - len(kept)
        passing = kept
    by_machine = {frames[0].machine: frames for frames in _grouped(passing, lambda frame: frame.machine)}
    capped = {machine: _lowest(of, rules.max_frames_per_machine) for machine, of in by_machine.items()}
    dropped[Rule.OVER_MACHINE_CAP] += len(passing) - sum(map(len, capped.values()))
    shares = dict.fromkeys(capped, 0)
    left = sum(map(len, capped.values())) if rules.max_frames is None else rules.max_frames
    for number, machine in enumerate(sorted(capped, key=lambda name: (len(capped[name]), name))):
        shares[machine] = min(len(capped[machine]), left // (len(capped) - number))
        left -= shares[machine]
    shared = [frame for machine, of in capped.items() for frame in _lowest(of, shares[machine])]
    dropped[Rule.OVER_BALANCED_SHARE] += sum(map(len, capped.values())) - len(shared)
    return sorted(shared, key=lambda frame: (key(frame.study), key(frame.instance), frame.index)), dropped


def _alone(frame: StoredFrame, rules: PoolRules, held_out: Collection[str]) -> Iterable[tuple[Rule, bool]]:
    yield Rule.NOT_IN_RESULTS, frame.in_results
    yield Rule.HELD_OUT_SUBJECT, frame.subject not in held_out
    yield Rule.UNKNOWN_VIEW, frame.is_known or not rules.known_only
    yield Rule.LOW_CONFIDENCE, frame.confidence >= rules.min_view_confidence
    yield Rule.SMALL_FIELD_OF_VIEW, frame.fov_area_ratio >= rules.min_fov_area_ratio
    yield Rule.SMALL_LEFT_VENTRICLE, frame.lv_area_ratio >= rules.min_lv_area_ratio


def _grouped(
    frames: Sequence[StoredFrame], key_of: Callable[[StoredFrame], Hashable]
) -> list[list[StoredFrame]]:
    groups: dict[Hashable, list[StoredFrame]] = defaultdict(list)
    for frame in frames:
        groups[key_of(frame)].append(frame)
    return list(groups.values())


def _lowest(frames: list[StoredFrame], limit: int | None) -> list[StoredFrame]:
    """Take whole ranges of rank, of 65,536, while they fit."""
    in_order = sorted(frames, key=rank)
    fits = len(in_order) if limit is None else min(limit, len(in_order))
    while 0 < fits < len(in_order) and rank(in_order[fits]) >> 48 == rank(in_order[fits - 1]) >> 48:
        fits -= 1
    return in_order[:fits]
