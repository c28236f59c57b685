import pytest

from beam_jobs.deid.regions import Box, read_regions, region_masks
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
    assert masks.strips[60:].all()
    assert not masks.strips[:60].any()
    assert [int(image.sum()) for image in masks.images] == [40 * 160]


def test_a_strip_over_the_whole_screen_is_looked_through_for_an_image() -> None:
    ds = header(regions=[region(0, 0, 799, 599, spatial_format=2)])
    masks = region_masks(read_regions(ds, 600, 800), 600, 800)
    assert not masks.strips.any()
    assert [image.all() for image in masks.images] == [True]


def test_without_a_box_the_whole_screen_is_looked_through() -> None:
    masks = region_masks(read_regions(header(), 600, 800), 600, 800)
    assert not masks.strips.any()
    assert [image.all() for image in masks.images] == [True]
