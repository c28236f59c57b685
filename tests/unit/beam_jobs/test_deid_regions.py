import pytest
from pydicom import Dataset

from beam_jobs.deid.regions import Box, need_review, read_regions, region_masks
from tests.made_files import header, region


def boxes(*items: tuple[int, int, int, int]) -> list[Box | None]:
    ds = header(regions=[region(*item) for item in items])
    return [found.box for found in read_regions(ds, 600, 800)]


def test_a_box_has_both_its_edges() -> None:
    assert boxes((10, 20, 699, 499)) == [Box(10, 20, 700, 500)]


@pytest.mark.parametrize("item", [(0, 0, 800, 600), (0, 0, 810, 605)])
def test_a_box_a_little_larger_than_the_screen_is_clamped(item: tuple[int, int, int, int]) -> None:
    found = boxes(item)[0]
    assert found is not None
    assert (found.left, found.top) == (0, 0)
    assert (found.right, found.bottom) == (800, 600)


@pytest.mark.parametrize(
    "item",
    [
        (0, 0, 1023, 767),  # of a larger screen
        (100, 100, 100, 500),  # without width
        (100, 100, 500, 105),  # without height to speak of
        (500, 400, 100, 100),  # inside out
    ],
)
def test_a_box_that_cannot_be_true_is_not_believed(item: tuple[int, int, int, int]) -> None:
    assert boxes(item) == [None]


def test_a_box_with_an_edge_missing_is_not_believed() -> None:
    item = region(0, 0, 799, 599)
    del item.RegionLocationMaxX1
    assert read_regions(header(regions=[item]), 600, 800)[0].box is None


@pytest.mark.parametrize("spatial_format", [0, 4, 5, 77])
def test_regions_that_show_no_inside_of_the_patient_are_left_out(spatial_format: int) -> None:
    items = [region(0, 0, 799, 599, spatial_format=spatial_format, data_type=0), region(10, 20, 699, 499)]
    assert [found.box for found in read_regions(header(regions=items), 600, 800)] == [Box(10, 20, 700, 500)]


def test_a_strip_is_kept_as_its_rectangle() -> None:
    ds = header(regions=[region(0, 0, 799, 199), region(0, 300, 799, 599, spatial_format=3, data_type=3)])
    masks = region_masks(read_regions(ds, 600, 800), 600, 800)
    (strip,) = masks.strips
    assert strip[60:].all()
    assert not strip[:60].any()
    assert masks.are_of_header
    assert [int(image.sum()) for image in masks.images] == [40 * 160]


def test_a_strip_over_the_whole_screen_is_looked_through_for_an_image() -> None:
    ds = header(regions=[region(0, 0, 799, 599, spatial_format=2)])
    masks = region_masks(read_regions(ds, 600, 800), 600, 800)
    assert not masks.strips
    assert [image.all() for image in masks.images] == [True]


def test_without_a_box_the_whole_screen_is_looked_through() -> None:
    masks = region_masks(read_regions(header(), 600, 800), 600, 800)
    assert not masks.strips
    assert not masks.are_of_header
    assert [image.all() for image in masks.images] == [True]


@pytest.mark.parametrize(
    ("items", "is_odd"),
    [
        ([region(0, 0, 799, 599)], False),
        ([region(0, 0, 800, 600)], False),  # clamped
        ([region(10, 20, 799, 199), region(0, 300, 799, 599, spatial_format=3)], False),
        ([], True),
        ([region(0, 0, 799, 599, spatial_format=4)], True),  # graphics only
        ([region(0, 0, 799, 599), region(0, 0, 1999, 599)], True),  # one of them lies
        ([region(0, 0, 799, 599, spatial_format=2)], True),  # a strip as large as the screen
    ],
)
def test_odd_or_missing_regions_call_for_a_review(items: list[Dataset], is_odd: bool) -> None:
    assert need_review(read_regions(header(regions=items), 600, 800), 600, 800) is is_odd
