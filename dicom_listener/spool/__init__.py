"""The spool: received instances on disk, byte for byte as they were sent, for as long as they are needed."""
