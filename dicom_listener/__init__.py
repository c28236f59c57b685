"""Receive DICOM studies from a PACS and keep them until a worker has processed them.

The flow is one way: association → instance → spool → ledger. Nothing here decodes pixels and
nothing here imports Beam, TensorFlow or pyarrow, so the listener installs alone.
"""
