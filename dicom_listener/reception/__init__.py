"""Reception: which instances are taken, how one becomes a file and a row, and what its sender is told."""
