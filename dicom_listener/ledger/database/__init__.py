"""The database behind the ledger: how it is opened, its tables and their versions, and its transactions."""
