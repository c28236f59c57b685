"""Storage Commitment Push Model, as SCP (PS3.4 Annex J): requests, looking whether we keep it, reports."""
