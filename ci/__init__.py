"""What continuous integration needs beyond nox sessions; no part of the installed package."""
