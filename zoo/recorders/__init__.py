"""What plays and writes recordings: random play, a learner on RAM, a planner, a model of the zoo."""
