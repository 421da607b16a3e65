"""The environment protocol: games, emulators and vector environments, with modes and difficulties."""
