"""What the listener accepts: storage classes that come with an echo study, and their encodings.

Everything is listed. Deflated syntaxes are not accepted: a small message could unpack to any size.
Syntaxes that no later stage can decode are accepted all the same: their instances end in a row that
says so, where a refused presentation context would end in a log of the sender that nobody reads.
"""

from typing import Final

from pydicom import uid
from pydicom.uid import UID
from pynetdicom import build_context, register_uid, sop_class
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass

# PS3.6 Table A-1, retired; pydicom and pynetdicom have no names for them.
UltrasoundImageStorageRetired: Final = UID("1.2.840.10008.5.1.4.1.1.6")
UltrasoundMultiFrameImageStorageRetired: Final = UID("1.2.840.10008.5.1.4.1.1.3")

STORAGE_CLASSES: Final = (
    # images
    sop_class.UltrasoundImageStorage,
    sop_class.UltrasoundMultiFrameImageStorage,
    sop_class.EnhancedUSVolumeStorage,
    UltrasoundImageStorageRetired,  # archives still hold what old machines made
    UltrasoundMultiFrameImageStorageRetired,
    sop_class.SecondaryCaptureImageStorage,
    sop_class.MultiFrameSingleBitSecondaryCaptureImageStorage,
    sop_class.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    sop_class.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    sop_class.MultiFrameTrueColorSecondaryCaptureImageStorage,
    # measurements and reports
    sop_class.BasicTextSRStorage,
    sop_class.EnhancedSRStorage,
    sop_class.ComprehensiveSRStorage,
    sop_class.Comprehensive3DSRStorage,
    sop_class.ExtensibleSRStorage,
    sop_class.SimplifiedAdultEchoSRStorage,
    sop_class.EncapsulatedPDFStorage,
    # what readers leave in a study
    sop_class.KeyObjectSelectionDocumentStorage,
    sop_class.GrayscaleSoftcopyPresentationStateStorage,
    sop_class.ColorSoftcopyPresentationStateStorage,
    sop_class.RawDataStorage,
)

# PS3.6 Table A-1; pydicom 3.0 has no names for them.
JPEGXLLossless: Final = UID("1.2.840.10008.1.2.4.110")
JPEGXLJPEGRecompression: Final = UID("1.2.840.10008.1.2.4.111")
JPEGXL: Final = UID("1.2.840.10008.1.2.4.112")

TRANSFER_SYNTAXES: Final = (
    # The first that the sender offers too is chosen, so: native first, then what decodes fast and well.
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
    JPEGXLLossless,
    JPEGXLJPEGRecompression,
    JPEGXL,
    uid.MPEG2MPML,
    uid.MPEG2MPMLF,
    uid.MPEG2MPHL,
    uid.MPEG2MPHLF,
    uid.MPEG4HP41,
    uid.MPEG4HP41F,
    uid.MPEG4HP41BD,
    uid.MPEG4HP41BDF,
    uid.MPEG4HP422D,
    uid.MPEG4HP422DF,
    uid.HEVCMP51,
    uid.HEVCM10P51,
)

_VERIFICATION_SYNTAXES: Final = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)


def supported_contexts() -> list[PresentationContext]:
    """Build the presentation contexts of C-ECHO and C-STORE.

    pynetdicom negotiates the two retired ultrasound classes and then aborts the association when an
    instance comes, unless they are registered as storage; so they are registered here.
    """
    register_uid(UltrasoundImageStorageRetired, "UltrasoundImageStorageRetired", StorageServiceClass)
    register_uid(
        UltrasoundMultiFrameImageStorageRetired,
        "UltrasoundMultiFrameImageStorageRetired",
        StorageServiceClass,
    )
    return [
        build_context(sop_class.Verification, list(_VERIFICATION_SYNTAXES)),
        *(build_context(storage_class, list(TRANSFER_SYNTAXES)) for storage_class in STORAGE_CLASSES),
    ]
