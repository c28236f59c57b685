from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicom_listener.reception.contexts import (
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    UltrasoundImageStorageRetired,
    UltrasoundMultiFrameImageStorageRetired,
    supported_contexts,
)


def test_the_retired_ultrasound_classes_are_registered_as_storage() -> None:
    supported_contexts()
    for retired in (UltrasoundImageStorageRetired, UltrasoundMultiFrameImageStorageRetired):
        assert uid_to_service_class(retired) is StorageServiceClass
        assert "Ultrasound" in retired.name
        assert retired.is_retired


def test_every_class_is_a_storage_class_and_listed_once() -> None:
    supported_contexts()
    assert len(set(STORAGE_CLASSES)) == len(STORAGE_CLASSES)
    assert {uid_to_service_class(storage_class) for storage_class in STORAGE_CLASSES} == {StorageServiceClass}


def test_no_deflated_syntax_is_accepted() -> None:
    offered = {UID(syntax) for context in supported_contexts() for syntax in context.transfer_syntax or []}
    assert DeflatedExplicitVRLittleEndian not in offered
    assert not any("eflate" in syntax.name for syntax in offered)


def test_every_syntax_is_listed_once() -> None:
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES)
