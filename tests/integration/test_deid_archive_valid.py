"""Files of the archive are as valid as what was sent: dicom3tools finds no fault that was not there."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import UID, ComprehensiveSRStorage, EnhancedUSVolumeStorage

from beam_jobs.deid import RejectedError
from beam_jobs.deid.archive_file import deidentify_file
from beam_jobs.deid.profile import DeidOptions
from beam_jobs.deid.redaction import redact
from beam_jobs.records import Reason
from tests.made_files import PLACEMENT, PSEUDONYMIZER, header, instance, region, speckle_cine, written
from tests.programs import need
from tests.real_files import REAL_FILES, real_file

NOT_IN_THE_ARCHIVE = {Reason.NO_IMAGE_REGION, Reason.NOT_ULTRASOUND}


def faults(path: Path) -> set[str]:
    """List what dicom3tools calls an error, UIDs aside."""
    dciodvfy = need("dciodvfy", "dicom3tools")
    done = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"[0-9]+(\.[0-9]+){2,}", "UID", line) for line in lines if line.startswith("Error")}


def archived(path: Path, folder: Path, options: DeidOptions) -> Path:
    file = deidentify_file(path, PLACEMENT, options=options, pseudonymizer=PSEUDONYMIZER, redact=redact)
    target = folder / "archived.dcm"
    target.write_bytes(file.content)
    return target


@pytest.mark.parametrize("name", REAL_FILES)
def test_a_real_file_is_as_valid_as_it_was(name: str, tmp_path: Path) -> None:
    source = real_file(name, tmp_path)
    try:
        target = archived(source, tmp_path, DeidOptions())
    except RejectedError as error:
        assert error.reason in NOT_IN_THE_ARCHIVE  # noqa: PT017 - the others must go through
        return
    assert faults(target) <= faults(source)
    before, after = (pydicom.dcmread(path, stop_before_pixels=True) for path in (source, target))
    assert after.get("NumberOfFrames") == before.get("NumberOfFrames")
    assert (after.get("Rows"), after.get("Columns")) == (before.get("Rows"), before.get("Columns"))


OPTIONS = [
    DeidOptions(),
    DeidOptions(retain_modified_dates=False, clean_descriptors=False, clean_structured_content=False),
    DeidOptions(retain_device_identity=True, times_of_day="shift"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["site", "basic", "device"])
@pytest.mark.parametrize("kind", ["cine", "volume", "report"])
def test_a_made_file_is_as_valid_as_it_was_under_any_options(
    kind: str, options: DeidOptions, tmp_path: Path
) -> None:
    made = {"cine": cine, "volume": volume, "report": report}[kind]()
    source = written(described(made), tmp_path / "source.dcm")
    assert faults(archived(source, tmp_path, options)) <= faults(source)


def described(ds: Dataset) -> Dataset:
    """Put in what every object has of a patient, a study and a machine."""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "DOE^JANE", "4711", "19670809", "F"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID("1.2.826.0.1.1"), UID("1.2.826.0.1.2")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.3")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.StudyDate = ds.ContentDate = ds.AcquisitionDate = "20200229"
    ds.StudyTime = ds.ContentTime = "101112"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "7", "8", "DOE^JOHN"
    ds.SeriesNumber, ds.InstanceNumber = 1, 2
    ds.Manufacturer, ds.ManufacturerModelName = "Philips Medical Systems", "EPIQ 7C"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "US-4711", "1.2.3"
    return ds


def cine() -> Dataset:
    ds = instance(speckle_cine(3, 60, 80), regions=[region(0, 0, 79, 59)])
    ds.ImageType, ds.FrameTime, ds.FrameIncrementPointer = ["ORIGINAL", "PRIMARY"], "33.3", 0x00181063
    ds.PatientOrientation, ds.Laterality, ds.LossyImageCompression = "", "", "00"
    return ds


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def volume() -> Dataset:
    """Make an Enhanced US Volume with the attributes whose actions its IOD decides, and some geometry."""
    ds = instance(speckle_cine(3, 60, 80), SOPClassUID=EnhancedUSVolumeStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.AcquisitionDateTime, ds.AcquisitionDuration = "20200229101112", 40.0
    ds.AcquisitionContextSequence = Sequence()
    performed = Dataset()
    performed.ReferencedSOPClassUID, performed.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.3", "1.2.3.4"
    ds.ReferencedPerformedProcedureStepSequence = Sequence([performed])
    ds.FrameOfReferenceUID, ds.SynchronizationFrameOfReferenceUID = "1.2.3.5", "1.2.840.10008.15.1.1"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    frames, shared = [], Dataset()
    for index in range(3):
        frame, place, position = Dataset(), Dataset(), Dataset()
        place.FrameAcquisitionDateTime = place.FrameReferenceDateTime = "20200229101112"
        place.DimensionIndexValues, place.FrameAcquisitionDuration = [1, index + 1], 10.0
        position.ImagePositionVolume = [0.0, 0.0, float(index)]
        frame.FrameContentSequence = Sequence([place])
        frame.PlanePositionVolumeSequence = Sequence([position])
        frames.append(frame)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 1.0
    orientation.ImageOrientationVolume = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationVolumeSequence = Sequence([orientation])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.UltrasoundAcquisitionGeometry, ds.ApexPosition = "APEX", [0.0, 0.0, 0.0]
    ds.VolumeFrameOfReferenceUID, ds.PatientFrameOfReferenceSource = "1.2.3.6", "TABLE"
    ds.VolumeToTransducerMappingMatrix = np.eye(4).ravel().tolist()
    ds.AnatomicRegionSequence = code("80891009", "SCT", "Heart")
    ds.TransducerGeometryCodeSequence = code("125252", "DCM", "Sector ultrasound transducer geometry")
    return ds


def report() -> Dataset:
    ds = header(SOPClassUID=ComprehensiveSRStorage, Modality="SR")
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CompletionFlag, ds.VerificationFlag = "PARTIAL", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = code("125200", "DCM", "Adult Echocardiography Procedure Report")
    measured, number, comment, observer = Dataset(), Dataset(), Dataset(), Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "4.7", code("cm", "UCUM", "centimeter")
    number.RelationshipType, number.ValueType = "CONTAINS", "NUM"
    number.ConceptNameCodeSequence = code("29436-3", "LN", "Left Ventricle Internal End Diastolic Dimension")
    number.MeasuredValueSequence = Sequence([measured])
    comment.RelationshipType, comment.ValueType, comment.TextValue = "CONTAINS", "TEXT", "seen by Dr. Doe"
    comment.ConceptNameCodeSequence = code("121106", "DCM", "Comment")
    observer.RelationshipType, observer.ValueType = "HAS OBS CONTEXT", "PNAME"
    observer.PersonName = "DOE^JOHN"
    observer.ConceptNameCodeSequence = code("121008", "DCM", "Person Observer Name")
    ds.ContentSequence = Sequence([observer, number, comment])
    return ds
