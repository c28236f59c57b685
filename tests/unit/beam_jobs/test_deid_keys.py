import os
import pickle
import threading
import uuid
from pathlib import Path

import pytest

from beam_jobs.deid.errors import KeyFileError
from beam_jobs.deid.keys import KEY_BYTES, Pseudonymizer

KEY = bytes(range(KEY_BYTES))
UID = "1.2.840.113619.2.391.1"
SUBJECT = "7f16f1f524b6efaab780f85f5db92309"
STUDY = "44d437c06cb3e267de0b7043c373394f"
SHIFT = -267
KEY_ID = "75789b3c716310f9"
HASHED_UID = "2.25.239198661275360069409308478158516510872"  # of 1.2.3


def test_a_new_key_file_is_open_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret.key"
    Pseudonymizer.from_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) == KEY_BYTES
    assert list(path.parent.iterdir()) == [path]


def test_a_key_file_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    first = Pseudonymizer.from_key_file(path).study_key(UID)
    assert Pseudonymizer.from_key_file(path).study_key(UID) == first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_key_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    Pseudonymizer.from_key_file(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Pseudonymizer.from_key_file(path)


@pytest.mark.parametrize("size", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_of_another_length_is_refused_and_kept(tmp_path: Path, size: int) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="32 bytes"):
        Pseudonymizer.from_key_file(path)
    assert len(path.read_bytes()) == size


def test_a_key_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    os.mkfifo(path, 0o600)
    # A pipe opens for reading once somebody writes to it.
    writer = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(KeyFileError, match="regular file"):
            Pseudonymizer.from_key_file(path)
    finally:
        os.close(writer)


def test_processes_that_make_the_key_at_once_share_it(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    start = threading.Barrier(8)
    keys: list[str] = []

    def make() -> None:
        start.wait(timeout=30)
        keys.append(Pseudonymizer.from_key_file(path).study_key(UID))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_keys_are_hexadecimal_and_hold_nothing_of_the_identifier() -> None:
    keys = Pseudonymizer(KEY)
    for key in (keys.subject_key("DOE-4711", UID), keys.study_key(UID), keys.instance_key(UID)):
        assert len(key) == 32
        assert set(key) <= set("0123456789abcdef")


def test_equal_identifiers_of_two_kinds_have_unrelated_keys() -> None:
    keys = Pseudonymizer(KEY)
    made = [keys.study_key(UID), keys.series_key(UID), keys.instance_key(UID)]
    made += [keys.subject_key(UID, ""), keys.subject_key("", UID)]
    assert len(set(made)) == len(made)


def test_another_secret_gives_other_keys() -> None:
    assert Pseudonymizer(KEY).study_key(UID) != Pseudonymizer(KEY[::-1]).study_key(UID)


def test_keys_stay_the_same_from_version_to_version() -> None:
    # Written down once: a changed key would give every subject of every site another name.
    keys = Pseudonymizer(KEY)
    assert keys.subject_key("DOE-4711", UID) == SUBJECT
    assert keys.study_key(UID) == STUDY
    assert keys.day_shift(SUBJECT) == SHIFT
    assert keys.key_id == KEY_ID
    assert keys.uid("1.2.3") == HASHED_UID


def test_padding_is_no_part_of_an_identifier() -> None:
    keys = Pseudonymizer(KEY)
    assert keys.study_key(UID + "\0") == keys.study_key(UID)
    assert keys.subject_key("DOE-4711 ", UID) == keys.subject_key("DOE-4711", UID)


def test_a_study_without_a_patient_id_is_a_subject_of_its_own() -> None:
    keys = Pseudonymizer(KEY)
    assert keys.subject_key("", UID) == keys.subject_key("  ", UID)
    assert keys.subject_key("", UID) != keys.subject_key("", UID + "2")


def test_a_patient_is_one_subject_in_all_studies() -> None:
    keys = Pseudonymizer(KEY)
    assert keys.subject_key("DOE-4711", UID) == keys.subject_key("DOE-4711", UID + "2")


def test_a_pickle_names_the_key_file_and_never_holds_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    keys = Pseudonymizer.from_key_file(path)
    pickled = pickle.dumps(keys)
    assert path.read_bytes() not in pickled
    assert pickle.loads(pickled).study_key(UID) == keys.study_key(UID)  # noqa: S301 - made above


def test_a_secret_from_memory_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="from_key_file"):
        pickle.dumps(Pseudonymizer(KEY))


def test_the_secret_is_not_in_the_representation(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    assert path.name in repr(Pseudonymizer.from_key_file(path))
    assert repr(KEY) not in repr(Pseudonymizer(KEY))


def test_a_uid_becomes_one_of_the_uuid_form_and_stays_the_same() -> None:
    hashed = Pseudonymizer(KEY).uid(UID)
    number = uuid.UUID(int=int(hashed.removeprefix("2.25.")))
    assert (number.variant, number.version) == (uuid.RFC_4122, 8)
    assert len(hashed) <= 64
    assert hashed == Pseudonymizer(KEY).uid(UID + "\0")
    assert hashed != Pseudonymizer(KEY).uid(UID + "2")
    assert int(hashed.removeprefix("2.25.")) != int(Pseudonymizer(KEY).instance_key(UID), 16)


def test_times_of_a_subject_move_by_less_than_a_day() -> None:
    keys = Pseudonymizer(KEY)
    shifts = {keys.second_shift(keys.subject_key(str(number), UID)) for number in range(50)}
    assert len(shifts) > 40
    assert all(0 <= shift < 86_400 for shift in shifts)


def test_a_key_id_tells_secrets_apart_and_nothing_of_them() -> None:
    first, second = Pseudonymizer(KEY).key_id, Pseudonymizer(KEY[::-1]).key_id
    assert first != second
    assert len(first) == 16
    assert first not in KEY.hex()


def test_after_a_rotation_the_old_file_still_gives_the_old_keys(tmp_path: Path) -> None:
    current, old = tmp_path / "secret.key", tmp_path / "secret-old.key"
    before = Pseudonymizer.from_key_file(current)
    current.rename(old)
    after = Pseudonymizer.from_key_file(current)
    assert after.key_id != before.key_id
    assert after.study_key(UID) != before.study_key(UID)
    again = Pseudonymizer.from_existing_key_file(old)
    assert (again.key_id, again.study_key(UID)) == (before.key_id, before.study_key(UID))


def test_who_needs_a_key_that_exists_is_not_given_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    with pytest.raises(KeyFileError, match="must exist"):
        Pseudonymizer.from_existing_key_file(path)
    assert not path.exists()
    path.write_bytes(KEY)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Pseudonymizer.from_existing_key_file(path)
