"""A procedural phantom: frames, masks and labels of all fifteen views, from one 3-D heart and torso.

Synthetic data for training and tests; nothing here is a patient, and nothing here measures one.
"""

from echo_models.phantom.clips import PhantomClip, generate_frames, render_clip
from echo_models.phantom.errors import InvalidRequestError, PhantomError, UnknownViewError
from echo_models.phantom.scene import UltrasoundRegion
from echo_models.phantom.sites import HOME, SITES, Site, site_named
from echo_models.phantom.subject import Hypertrophy, Subject, random_subject

__all__ = [
    "HOME",
    "SITES",
    "Hypertrophy",
    "InvalidRequestError",
    "PhantomClip",
    "PhantomError",
    "Site",
    "Subject",
    "UltrasoundRegion",
    "UnknownViewError",
    "generate_frames",
    "random_subject",
    "render_clip",
    "site_named",
]
