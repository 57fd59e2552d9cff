"""What `nox -s wheel` checks of a release before anybody else installs it."""
