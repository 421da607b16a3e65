"""What knows nothing of Atari: errors, files, locks, processes, devices, statistics."""
