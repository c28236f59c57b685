import pickle

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.pooling.references import (
    DTYPE,
    FRAME_BYTES,
    References,
    digest_frames,
    frames_in,
    key_text,
    pack_keys,
    pack_texts,
)
from tests.pool_archive import StoredFrame, key
from tests.pool_oracle import rank


def references_of(*frames: StoredFrame) -> References:
    rows = np.zeros(len(frames), DTYPE)
    rows["subject_key"] = pack_texts([key(frame.subject) for frame in frames])
    rows["study_key"] = pack_texts([key(frame.study) for frame in frames])
    rows["instance_key"] = pack_texts([key(frame.instance) for frame in frames])
    rows["frame_index"] = [frame.index for frame in frames]
    rows["pixel_digest"] = pack_texts([key(str(frame.texture)) for frame in frames])
    rows["machine"] = [frame.machine for frame in frames]
    return References(rows)


def cine(study: str, length: int) -> list[StoredFrame]:
    return [StoredFrame("s", study, f"{study}-cine", index, index) for index in range(length)]


def test_a_packed_key_comes_back_also_where_it_ends_in_zeros() -> None:
    keys = [key("one"), "00" * 16, "ab" + "00" * 15, "00" * 15 + "ab"]
    assert [key_text(packed) for packed in pack_texts(keys)] == keys
    assert len(pack_texts([])) == 0
    assert pack_keys(pa.array(keys).dictionary_encode()).tolist() == pack_texts(keys).tolist()


@pytest.mark.parametrize(
    "keys", [["DOE^JANE"], [key("one") + "0"], [key("one")[:31], key("one") + "0"], [" " * 32]]
)
def test_a_key_of_another_form_is_refused_and_not_repeated(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits") as caught:
        pack_texts(keys)
    assert keys[0] not in str(caught.value)


def test_the_rank_is_the_hash_of_the_frame_s_identity() -> None:
    frames = [*cine("t", 50), StoredFrame("s", "v", "v-cine", 2**31 - 1, 0)]
    assert references_of(*frames).ranks().tolist() == [rank(frame) for frame in frames]


def test_ranks_are_spread_evenly_over_a_cine() -> None:
    chosen = references_of(*cine("t", 300))
    kept = chosen.take(chosen.lowest("study_key", 60)).rows["frame_index"]
    assert len(kept) == 60
    assert (kept < 150).sum() == pytest.approx(30, abs=12)


def test_a_block_comes_back_from_its_bytes_sorted_by_place() -> None:
    block = references_of(*cine("t", 40), *cine("v", 40))
    shuffled = block.take(np.random.default_rng(1).permutation(80))
    back = References.from_bytes(shuffled.to_bytes())
    assert back.rows.tolist() == block.in_place().rows.tolist()
    assert len(References.from_bytes(References.join([]).to_bytes())) == 0


def test_a_reference_takes_little_more_than_its_digest() -> None:
    block = References.join(
        references_of(*cine(f"t{study}", 1)).take(np.zeros(100, int)) for study in range(20)
    )
    block.rows["frame_index"] = np.tile(np.arange(100), 20)
    block.rows["pixel_digest"] = np.frombuffer(np.random.default_rng(0).bytes(16 * len(block)), "S16")
    assert len(pickle.dumps(block)) < 24 * len(block)
    assert pickle.loads(pickle.dumps(block)).rows.tolist() == block.in_place().rows.tolist()  # noqa: S301 - our own


def test_frames_are_seen_where_they_lie_in_a_slice() -> None:
    frames = [bytes([number]) * FRAME_BYTES for number in range(5)]
    column = pa.array(frames, pa.binary(FRAME_BYTES)).slice(2, 2)
    assert frames_in(column)[:, 0].tolist() == [2, 3]
    assert len(frames_in(pa.array([], pa.binary(FRAME_BYTES)))) == 0


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="19200 bytes"):
        frames_in(pa.array([b"short"], pa.binary(5)))


def test_equal_pixels_have_equal_digests_and_others_have_not() -> None:
    frames = np.zeros((3, FRAME_BYTES), np.uint8)
    frames[2, -1] = 1
    one, same, other = digest_frames(frames)
    assert one == same
    assert one != other
