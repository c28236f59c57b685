"""Programs that are kept alive, say where they listen, and are watched. Nothing here knows DICOM."""
