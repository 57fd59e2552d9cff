"""What an artifact means: its plan, its tensors, its arithmetic, its file, and the reference that executes it in plain NumPy."""
