"""Every model of the method: phantom → labels → training → evaluation → bundle → registry.

Nothing here knows DICOM, Beam or a patient: frames come in as arrays, predictions go out as arrays.
"""
