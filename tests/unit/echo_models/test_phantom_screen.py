import numpy as np
import pytest

from echo_models.phantom.drawing import draw_disc, draw_polyline, draw_rectangle, draw_text, text_width
from echo_models.phantom.overlays import EcgStrip
from echo_models.phantom.screen import Box, Fan, FanSampler, Raster
from echo_models.phantom.speckle import Scatterers, point_spread

FAN = Fan(
    apex_row=30,
    apex_column=400,
    px_per_mm=3.2,
    radius_mm=5,
    depth_mm=150,
    half_angle=0.75,
    mirrored=False,
    upside_down=False,
    box=Box(0, 600, 0, 800),
)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
def test_places_on_the_screen_lead_back_to_the_sector(mirrored: bool, upside_down: bool) -> None:
    fan = Fan(**{**FAN.__dict__, "mirrored": mirrored, "upside_down": upside_down})
    angles = np.array([-0.6, 0.0, 0.3], np.float32)
    depths = np.array([10.0, 80.0, 140.0], np.float32)
    back = fan.polar(*fan.place(angles, depths))
    assert back[0] == pytest.approx(angles, abs=1e-4)
    assert back[1] == pytest.approx(depths, abs=1e-2)


def test_scan_conversion_of_a_linear_field_is_exact() -> None:
    sampler = FanSampler(FAN, Raster(120, 160), 128, 256)
    angles = np.linspace(-0.75, 0.75, 128, dtype=np.float32)[:, None]
    depths = ((np.arange(256) + 0.5) * 150 / 256).astype(np.float32)[None, :]
    rows, columns = np.nonzero(sampler.mask)
    raster = Raster(120, 160)
    angle, depth = FAN.polar(
        raster.screen_rows[rows].astype(np.float32), raster.screen_columns[columns].astype(np.float32)
    )
    inner = (depth > 1) & (depth < 149)
    assert sampler(3 * angles + 0.1 * depths)[inner] == pytest.approx(
        (3 * angle + 0.1 * depth)[inner], abs=1e-3
    )


def test_a_box_cuts_the_sector() -> None:
    narrow = Fan(**{**FAN.__dict__, "box": Box(100, 400, 300, 500)})
    rows, columns = np.nonzero(narrow.inside(Raster(600, 800)))
    assert (rows.min(), columns.min()) >= (100, 300)
    assert rows.max() < 400
    assert columns.max() < 500


def test_a_raster_looks_at_what_nearest_neighbour_keeps() -> None:
    screen = np.arange(600 * 800).reshape(600, 800) % 251
    assert np.array_equal(Raster(120, 160).look(screen.astype(np.uint8)), screen.astype(np.uint8)[2::5, 2::5])


def test_text_is_legible() -> None:
    screen = np.zeros((7, 12), np.uint8)
    draw_text(screen, 0, 0, "LI", scale=1, level=9)
    assert ["".join(".#"[int(value > 0)] for value in row) for row in screen] == [
        "#......###..",
        "#.......#...",
        "#.......#...",
        "#.......#...",
        "#.......#...",
        "#.......#...",
        "#####..###..",
    ]
    assert text_width("LI", 1) == 12


@pytest.mark.parametrize(("row", "column"), [(-50, -50), (-3, -3), (595, 795), (900, 900)])
def test_marks_off_the_screen_are_left_out(row: int, column: int) -> None:
    screen = np.zeros((600, 800), np.uint8)
    draw_text(screen, row, column, "ABC", level=200)
    draw_disc(screen, row, column, 6, 200)
    draw_rectangle(screen, Box(row, row + 8, column, column + 8), 200)
    draw_polyline(screen, np.array([row, row + 20.0]), np.array([column, column + 20.0]), 200, width=2)
    assert (screen > 0).sum() < 1500


def test_the_sweep_of_an_ecg_leaves_a_gap_before_the_old_trace() -> None:
    strip = EcgStrip(top=500, height=50, left=100, right=500, beats=3, level=200)

    def drawn(progress: float) -> np.ndarray:
        screen = np.zeros((600, 800), np.uint8)
        strip.draw(screen, 0.0, progress)
        return np.asarray(screen.any(axis=0))

    first, second = drawn(0.5), drawn(1.5)
    assert first[150:295].all()
    assert not first[310:].any()
    assert not second[306:322].any()
    assert second[330:495].all()


def test_scatterers_stay_with_the_tissue_and_differ_between_scans() -> None:
    places = tuple(np.random.default_rng(0).uniform(-80, 80, (3, 5000)).astype(np.float32))
    points = (places[0], places[1], places[2])
    medium, other = Scatterers(np.random.default_rng(1)), Scatterers(np.random.default_rng(2))
    real, imaginary = medium.amplitudes(points)
    assert np.array_equal(real, medium.amplitudes(points)[0])
    assert abs(np.corrcoef(real, other.amplitudes(points)[0])[0, 1]) < 0.06
    assert abs(np.corrcoef(real, imaginary)[0, 1]) < 0.06
    assert float(np.std(medium.unevenness(points))) == pytest.approx(1, abs=0.1)


def test_the_point_spread_makes_rayleigh_speckle() -> None:
    rng = np.random.default_rng(0)
    real, imaginary = (
        point_spread(rng.standard_normal((128, 256), np.float32), 0.8, 1.5, 1.5) for _ in range(2)
    )
    envelope = np.hypot(real, imaginary)
    # Mean over standard deviation of a Rayleigh variable is sqrt(pi / (4 - pi)) = 1.913.
    assert float(envelope.mean() / envelope.std()) == pytest.approx(1.913, rel=0.05)


def test_the_beam_widens_where_it_is_said_to() -> None:
    spike = np.zeros((65, 100), np.float32)
    spike[32, [10, 90]] = 1
    blurred = point_spread(spike, 0.3, 1.0, 3.0)
    assert blurred[32, 10] > 2 * blurred[32, 90]
