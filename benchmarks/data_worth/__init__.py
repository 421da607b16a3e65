"""What recorded play is worth: what a small network learns from it."""
