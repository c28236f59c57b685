"""Turn received studies into tables: claim → de-identify → frames → predictions → Parquet.

`beam_jobs.deid` is the only door between the identified and the de-identified zone.
"""
