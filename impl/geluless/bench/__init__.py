"""Timing: paired samples, their intervals, the machine they come from, and full-size networks to time."""
