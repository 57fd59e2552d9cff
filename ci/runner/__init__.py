"""What runs on the machine with the RTX 4090, outside the jobs: see README.md."""
