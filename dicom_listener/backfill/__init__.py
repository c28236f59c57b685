"""Backfill: studies that an archive has already, found by C-FIND and fetched by C-GET or C-MOVE.

plan      which questions are asked
fetch     how one study is fetched
journal   what a job has done, so that it can go on after a crash
pace      when the next study may be fetched
job       the loop over all of it, and its summary
"""
