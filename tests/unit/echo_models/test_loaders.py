"""Public sets, on files made in the same shape: one type comes out, and faults say where they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from echo_models.datasets import Known, split_by_subject
from echo_models.errors import DatasetError, TableError
from echo_models.loaders import LOADERS, load_public_set
from echo_models.loaders.echonet_lvh import mass_g
from echo_models.sources import TEST, TRAIN, UNDECIDED, VALIDATION, Source, join_sources, to_screen
from echo_models.views import VIEWS
from tests.unit.echo_models import public_sets as made

WRITERS: dict[str, Callable[[Path], None]] = {
    "echonet-dynamic": made.write_echonet_dynamic,
    "echonet-lvh": made.write_echonet_lvh,
    "echonet-lvh-mass": made.write_echonet_lvh,
    "camus": made.write_camus_patient,
    "tmed2": made.write_tmed2,
    "unity": made.write_unity,
}


def views(source: Source) -> list[str | None]:
    known = source.labeled.knows(Known.VIEW)
    return [VIEWS[view] if knows else None for view, knows in zip(source.labeled.views, known, strict=True)]


@pytest.mark.parametrize("kind", LOADERS)
def test_every_set_gives_frames_of_one_type_with_subjects(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    source = load_public_set(kind, tmp_path)
    labeled = source.labeled
    assert source.kind == kind
    assert labeled.frames.shape == (len(labeled), 120, 160)
    assert labeled.frames.dtype == np.uint8
    assert labeled.fov_masks.all()
    assert not labeled.knows(Known.FOV).any()
    assert len(source.parts) == len(labeled)
    facts = source.facts
    assert facts["frames"] == len(labeled)
    assert str(tmp_path) not in str(facts)


def test_echonet_dynamic_gives_traced_frames_and_the_published_split(tmp_path: Path) -> None:
    made.write_echonet_dynamic(tmp_path)
    source = load_public_set("echonet-dynamic", tmp_path)
    labeled = source.labeled
    assert set(views(source)) == {"a4c"}
    assert [int(frame[60, 80]) for frame in labeled.frames] == [20, 40, 20, 40, 10]
    assert labeled.knows(Known.LV).tolist() == [True] * 4 + [False]
    assert source.parts.tolist() == [TRAIN] * 2 + [VALIDATION] * 2 + [TEST]
    assert source.lv_border == "endocardium"
    # The square from (30, 20) to (70, 60) of 112 x 112, on a screen of 149 x 112; the long axis is no chord.
    rows, columns = np.nonzero(labeled.lv_masks[0])
    assert rows.min() == pytest.approx(20 * 120 / 112, abs=2.5)
    assert rows.max() == pytest.approx(60 * 120 / 112, abs=2.5)
    assert columns.min() == pytest.approx((30 + 18.7) * 160 / 149.3, abs=2.5)
    assert columns.max() == pytest.approx((70 + 18.7) * 160 / 149.3, abs=2.5)


def test_a_published_split_is_kept(tmp_path: Path) -> None:
    made.write_echonet_dynamic(tmp_path)
    source = load_public_set("echonet-dynamic", tmp_path)
    split = split_by_subject(source.labeled, seed=0, published=source.parts)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [2, 2, 1]


def test_echonet_lvh_gives_proxies_and_says_so(tmp_path: Path) -> None:
    made.write_echonet_lvh(tmp_path)
    source = load_public_set("echonet-lvh", tmp_path)
    assert set(views(source)) == {"plax"}
    assert source.labeled.hypertrophy.tolist() == [False, False, True, True, False, False]
    assert [int(frame[60, 80]) for frame in source.labeled.frames[:2]] == [30, 40]
    assert "proxy" in source.notes[0]
    by_mass = load_public_set("echonet-lvh-mass", tmp_path)
    assert by_mass.labeled.hypertrophy.tolist() == [False, False, True, True, False, False]
    assert "proxy" in by_mass.notes[0]


def test_the_mass_is_that_of_the_cube_formula() -> None:
    assert mass_g(1.0, 5.0, 1.0) == pytest.approx(0.8 * 1.04 * (7**3 - 5**3) + 0.6)


def test_a_video_without_its_diastole_has_no_proxy(tmp_path: Path) -> None:
    made.write_echonet_lvh(tmp_path)
    table = tmp_path / "MeasurementsList.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",LVPWd," not in line))
    assert not load_public_set("echonet-lvh", tmp_path).labeled.knows(Known.HYPERTROPHY).any()


@pytest.mark.parametrize("ending", [".mhd", ".nii.gz"])
@pytest.mark.parametrize("sequence", [False, True])
def test_camus_is_true_in_shape_in_either_format(tmp_path: Path, ending: str, sequence: bool) -> None:
    made.write_camus_patient(tmp_path, ending=ending, sequence=sequence, ed=3, es=1)
    source = load_public_set("camus", tmp_path)
    count = 3 if sequence else 2
    assert views(source) == ["a2c"] * count + ["a4c"] * count
    known = source.labeled.knows(Known.LV)[:count]
    assert known.tolist() == ([True, False, True] if sequence else [True, True])
    # End-diastole comes last in the sequence, and first among the two stills.
    assert [int(frame[60, 80]) for frame in source.labeled.frames[:count]] == (
        [10, 20, 30] if sequence else [30, 10]
    )
    rows, columns = np.nonzero(source.labeled.lv_masks[0])  # cavity and myocardium, no atrium
    assert (rows.min(), rows.max()) == (30, 89)
    assert (columns.min(), columns.max()) == (20, 59)
    assert source.lv_border == "epicardium"


def test_tmed2_leaves_out_views_that_are_not_one_of_ours(tmp_path: Path) -> None:
    made.write_tmed2(tmp_path)
    source = load_public_set("tmed2", tmp_path)
    assert views(source) == ["plax", "a4c", "a2c", None, None]
    assert source.labeled.subjects.tolist() == [0, 0, 0, 1, 2]
    assert set(source.parts) == {UNDECIDED}
    made.write_tmed2(tmp_path, fold=True)
    assert load_public_set("tmed2", tmp_path).parts.tolist() == [TRAIN] * 3 + [VALIDATION, TEST]


def test_unity_knows_off_from_blurred(tmp_path: Path) -> None:
    made.write_unity(tmp_path)
    source = load_public_set("unity", tmp_path)
    assert views(source) == ["a4c", None, None]
    assert source.labeled.knows(Known.LV).tolist() == [True, True, False]
    assert [bool(mask.any()) for mask in source.labeled.lv_masks] == [True, False, False]
    assert source.labeled.subjects.tolist() == [0, 0, 1]
    rows, columns = np.nonzero(source.labeled.lv_masks[0])
    assert (rows.min(), rows.max()) == pytest.approx((25, 75), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((37.5, 87.5), abs=2)


# --- faults -----------------------------------------------------------------------------------------

CLIPS, TRACINGS, WALLS, IMAGES = (
    "FileList.csv",
    "VolumeTracings.csv",
    "MeasurementsList.csv",
    "labels_per_image.csv",
)
TABLE_FAULTS = [
    ("echonet-dynamic", CLIPS, (",TRAIN", ",Train"), r"row 2, column Split: expected one of TRAIN"),
    ("echonet-dynamic", CLIPS, ("Split", "Part"), r"FileList\.csv: expected a column Split"),
    ("echonet-dynamic", CLIPS, ("0X0000000000000000", "0X9"), r"row 2, column FileName: .*not there"),
    ("echonet-dynamic", TRACINGS, (",50,10,", ",x,10,"), None),
    ("echonet-dynamic", TRACINGS, (",30,20,", ",x,20,"), r"row 3, column X1: expected a number"),
    (
        "echonet-dynamic",
        TRACINGS,
        (",20,1\n", ",20,1.5\n"),
        r"row 3, column Frame: expected a whole",
    ),
    (
        "echonet-dynamic",
        TRACINGS,
        (",20,1\n", ",20,4\n"),
        r"row 3, column Frame: expected a long axis",
    ),
    ("echonet-lvh", WALLS, (",IVSd,", ",IVS,"), r"row 2, column Calc: expected one of IVSd"),
    ("echonet-lvh", WALLS, (",0.9,", ",-1,"), r"row 2, column CalcValue: expected centimetres"),
    ("echonet-lvh", WALLS, (",0.9,2,", ",0.9,9,"), r"must have 10 frames .* it has 4"),
    ("echonet-lvh", WALLS, ("0X0000000000000001", "0X7"), r"column HashedFileName: .*not there"),
    ("tmed2", IMAGES, ("PLAX", "plax"), r"row 2, column view_label: expected one of PLAX"),
    ("tmed2", IMAGES, ("1001s1_0", "1001s1_9"), r"row 2, column query_key: .*is not there"),
    ("tmed2", IMAGES, ("1001s1_0", "1001"), r"row 2, column query_key: expected <patient>s"),
    (
        "camus",
        "patient0001/Info_4CH.cfg",
        ("ES: 3", "ES: x"),
        r"Info_4CH\.cfg, key ES: expected a whole number",
    ),
    (
        "unity",
        "labels-all.json",
        ('"off"', '"gone"'),
        r"frame 01-aa-0002\.png, label .* key type",
    ),
    ("unity", "labels-all.json", ("30 70 70 30", "30 70"), r"frame 01-aa-0001\.png, label .* keys x and y"),
    ("unity", "labels-all.json", ('"labels"', '"lables"'), r"frame 01-aa-0001\.png, key labels"),
    ("unity", "labels-all.json", ("01-bb-0001", "01-bb-0009"), r"frame 01-bb-0009\.png: no such picture"),
]


@pytest.mark.parametrize(("kind", "file", "change", "message"), TABLE_FAULTS)
def test_a_fault_is_named_by_file_row_and_column(
    tmp_path: Path, kind: str, file: str, change: tuple[str, str], message: str | None
) -> None:
    WRITERS[kind](tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    content = path.read_text()
    assert change[0] in content
    path.write_text(content.replace(*change, 1))
    if message is None:  # the long axis is not read
        assert len(load_public_set(kind, tmp_path).labeled)
        return
    with pytest.raises(DatasetError, match=message):
        load_public_set(kind, tmp_path)


def test_a_camus_moment_beyond_the_sequence_is_refused(tmp_path: Path) -> None:
    made.write_camus_patient(tmp_path, sequence=True)
    info = tmp_path / "patient0001" / "Info_2CH.cfg"
    info.write_text(info.read_text().replace("ES: 3", "ES: 4"))
    with pytest.raises(TableError, match=r"Info_2CH\.cfg, key ED or ES: expected 1 to 3"):
        load_public_set("camus", tmp_path)


def test_a_camus_image_that_is_absent_or_broken_is_named(tmp_path: Path) -> None:
    made.write_camus_patient(tmp_path, ending=".nii.gz")
    image = tmp_path / "patient0001" / "patient0001_2CH_ED.nii.gz"
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"patient0001_2CH_ED\.nii\.gz must be an image"):
        load_public_set("camus", tmp_path)
    image.unlink()
    with pytest.raises(DatasetError, match=r"patient0001_2CH_ED with one of .* is not there"):
        load_public_set("camus", tmp_path)


def test_a_video_or_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    made.write_echonet_dynamic(tmp_path / "a")
    next((tmp_path / "a" / "Videos").iterdir()).write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"\.avi must be a video"):
        load_public_set("echonet-dynamic", tmp_path / "a")
    made.write_tmed2(tmp_path / "b")
    (tmp_path / "b" / "view_labeled_set" / "labeled" / "1001s1_0.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"1001s1_0\.png must be a picture"):
        load_public_set("tmed2", tmp_path / "b")


@pytest.mark.parametrize("content", ["[]", "not json"])
def test_json_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    made.write_unity(tmp_path)
    (tmp_path / "labels-all.json").write_text(content)
    with pytest.raises(DatasetError, match=r"labels-all\.json must"):
        load_public_set("unity", tmp_path)


def test_a_subject_in_two_parts_of_the_published_split_is_refused(tmp_path: Path) -> None:
    made.write_tmed2(tmp_path, fold=True)
    fold = tmp_path / "DEV479" / "TMED2_fold0_labeledpart.csv"
    fold.write_text(fold.read_text().replace("1001s2_0.png,A2C,train", "1001s2_0.png,A2C,test"))
    with pytest.raises(DatasetError, match="nobody may be in two parts"):
        load_public_set("tmed2", tmp_path)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="received 'mnist'"):
        load_public_set("mnist", tmp_path)
    with pytest.raises(DatasetError, match="is no folder"):
        load_public_set("camus", tmp_path / "absent")
    with pytest.raises(DatasetError, match="holds none"):
        load_public_set("camus", tmp_path)
    with pytest.raises(DatasetError, match=r"FileList|VolumeTracings"):
        load_public_set("echonet-dynamic", tmp_path)


# --- together ---------------------------------------------------------------------------------------


def test_sources_are_joined_without_sharing_a_subject(tmp_path: Path) -> None:
    made.write_tmed2(tmp_path / "tmed2")
    made.write_unity(tmp_path / "unity")
    sources = [load_public_set(kind, tmp_path / kind) for kind in ("tmed2", "unity")]
    joined = join_sources(sources, outlined=True)
    assert joined.labeled.subjects.tolist() == [0, 0, 0, 1, 2, 3, 3, 4]
    assert joined.kind == "tmed2+unity"
    assert joined.lv_border == "endocardium"
    with pytest.raises(DatasetError, match="received none"):
        join_sources([], outlined=False)


def test_outlines_along_different_borders_are_not_mixed(tmp_path: Path) -> None:
    made.write_camus_patient(tmp_path / "camus")
    made.write_unity(tmp_path / "unity")
    sources = [load_public_set(kind, tmp_path / kind) for kind in ("camus", "unity")]
    with pytest.raises(DatasetError, match="camus's along the epicardium, unity's along the endocardium"):
        join_sources(sources, outlined=True)
    assert len(join_sources(sources, outlined=False).labeled) == 7


@pytest.mark.parametrize(
    ("shape", "margins"), [((90, 120), (0, 0)), ((90, 90), (0, 20)), ((90, 240), (30, 0))]
)
def test_a_picture_keeps_its_shape_on_the_screen(shape: tuple[int, int], margins: tuple[int, int]) -> None:
    screen = to_screen(np.ones(shape, np.uint8))
    assert screen.shape == (120, 160)
    rows, columns = np.nonzero(screen)
    assert (rows.min(), columns.min()) == margins
    assert (119 - rows.max(), 159 - columns.max()) == margins
