"""How many processes pay."""

import os


def cores() -> int:
    """Cores that this process may use: a scheduler may have given it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
