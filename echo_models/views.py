"""The fifteen views, in the order of every probability vector of this project."""

from typing import Final

VIEWS: Final = (
    "plax",  # parasternal long axis
    "rv_inflow",  # right ventricular inflow
    "psax_base",  # basal short axis, aortic valve level
    "psax_mid",  # short axis at papillary muscle or mitral valve level
    "a2c",  # apical two chamber
    "a3c",  # apical three chamber (long axis)
    "a4c",  # apical four chamber
    "a5c",  # apical five chamber
    "sc4c",  # subcostal four chamber
    "sc_ivc",  # subcostal inferior vena cava
    "sc_aorta",  # subcostal abdominal aorta
    "suprasternal",  # suprasternal aortic arch
    "pw",  # pulsed-wave Doppler
    "cw",  # continuous-wave Doppler
    "mmode",  # M-mode
)

B_MODE_VIEWS: Final = VIEWS[:12]

A4C: Final = "a4c"
"""The view whose frames go on to the left ventricle and to hypertrophy."""
