"""Associations: who may open one, how many at once, and what is read of a connection, within which bounds.

`server` and `admission` are where a connection comes in, `lobby`, `wire` and `guarded` read its PDUs,
`messages` its messages, and `scp` answers them.
"""
