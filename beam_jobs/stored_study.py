"""Replace what an object store has of one study: `docs/decisions/0023-results-in-an-object-store.md`.

There is no rename and no lock. Each object appears whole, by one PUT that names what it replaces, and the
ledger holds the study for as long as these requests take. What is there is looked up before, while the study
is claimed: nobody else may change it until the claim ends.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from beam_jobs.result_files import at_once, list_study_files
from dicom_listener.object_store import StoredObject, StoreUrl, delete_objects, put_object

_LAST: Final = "studies/"
"""Table that is put after all others: who sees a study there finds the rest of it."""


class StoredStudy:
    """The objects of one study, as they are when this is made.

    Args:
        url: where the tables are.
        study_key: of the study.

    Raises:
        dicom_listener.errors.StoreError: if the store cannot be read now.
    """

    def __init__(self, url: StoreUrl, study_key: str) -> None:
        self._url = url
        self._standing: dict[str, StoredObject] = {
            item.key: item
            for files in list_study_files(url, study_key).values()
            for item in files
            if isinstance(item, StoredObject)
        }

    def replace(self, wanted: Mapping[str, Path]) -> None:
        """Make the objects of the study these and no others.

        What is in a place of its own is deleted first, so that a reader sees a row at most once.

        Args:
            wanted: the file that has the bytes, by key.

        Raises:
            dicom_listener.errors.StoreConflictError: if the store has something else than it had before.
            dicom_listener.errors.StoreError: if it did not answer, or refused.
        """
        delete_objects(self._url, [key for key in self._standing if key not in wanted])
        first = [key for key in wanted if not key.startswith(_LAST)]
        last = [key for key in wanted if key.startswith(_LAST)]
        for keys in (first, last):
            at_once(
                lambda key: put_object(self._url, key, wanted[key], replacing=self._standing.get(key)), keys
            )
