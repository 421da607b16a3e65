"""Benchmarks against the limit: what a step, a replay and a batch cost, beside what they cannot cost less than.

Every ratio comes from one run on one machine, its sides measured in turns; figures are medians over the turns, with
the 10th and 90th percentile.
"""
