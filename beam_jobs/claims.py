"""Claims without a patient: what the ledger gives out, by keys."""

from beam_jobs.deid import Pseudonymizer
from beam_jobs.records import InstanceReference, StudyClaim
from dicom_listener.ledger import ClaimedStudy


def pseudonymize_claim(study: ClaimedStudy, pseudonymizer: Pseudonymizer) -> StudyClaim:
    """Replace every identifier of a claimed study by its key.

    From here on nothing knows a UID or a patient ID.
    """
    return StudyClaim(
        claim_token=study.claim_token,
        study_key=pseudonymizer.study_key(study.study_instance_uid),
        subject_key=pseudonymizer.subject_key(study.patient_id, study.study_instance_uid),
        revision=study.revision,
        instances=tuple(
            InstanceReference(
                series_key=pseudonymizer.series_key(instance.series_instance_uid),
                instance_key=pseudonymizer.instance_key(instance.sop_instance_uid),
                path=instance.path,
                sha256=instance.sha256,
            )
            for instance in study.instances
        ),
    )
