"""Other engines on the same network: prepared, verified and timed beside ours in one run, each in a process of its own."""
