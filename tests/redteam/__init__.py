"""Attacks on the verdicts: every plant is something false that a claim's own test must not call REPRODUCED.

Each stands beside the honest case, which must be called what it is: a check that refuses everything has found nothing. `nox -s
redteam` runs this folder alone; `nox -s tests` runs it with the others.
"""
