"""The parts of the pool job: plain functions over blocks of references, and the Beam steps that use them.

`references`, `rules`, `reading`, `shards` and `datasheet` know no Beam; `steps` and `writing` only wire.
"""
