"""The parts of the pool job that know no Beam: references, rules, reading, shards.

`beam_jobs.pool` wires them into a pipeline.
"""
