"""Engines run artifacts: the exact reference here, the fast ones beside it."""
