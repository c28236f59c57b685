"""What we ask of others: associations that we open, C-FIND, and how many instances a study should have."""
