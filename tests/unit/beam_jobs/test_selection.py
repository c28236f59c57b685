from collections.abc import Callable

import pytest

from beam_jobs.selection import Candidate, Fingerprint, SelectionRules, pixel_digest
from tests.pool_archive import StoredFrame


def candidates(*frames: StoredFrame) -> list[Candidate]:
    return [frame.candidate() for frame in frames]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelectionRules(min_view_confidence=1.5), "min_view_confidence must be from 0 to 1"),
        (lambda: SelectionRules(min_fov_area_ratio=-0.1), "min_fov_area_ratio must be from 0 to 1"),
        (lambda: SelectionRules(max_frames_per_study=0), "max_frames_per_study must be at least 1"),
        (lambda: SelectionRules(max_frames_per_subject=0), "max_frames_per_subject must be at least 1"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(make: Callable[[], SelectionRules], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="19200 bytes"):
        pixel_digest(b"short")


def test_the_fingerprint_is_of_the_set_and_of_its_pixels() -> None:
    one, two = candidates(StoredFrame("s", "t", "i", 0, 1), StoredFrame("s", "t", "i", 1, 2))
    other_pixels = StoredFrame("s", "t", "i", 1, 3).candidate()

    def of(*members: Candidate) -> str:
        fingerprint = Fingerprint()
        for member in members:
            fingerprint.add(member)
        return fingerprint.hexdigest()

    joined = Fingerprint(of(one))
    joined.join(of(two))
    assert of(one, two) == of(two, one) == joined.hexdigest()
    assert len({of(), of(one), of(two), of(one, two), of(one, other_pixels)}) == 5
