"""The verbs of the command line, one module each: `add_parser` declares the options, `run` returns a `Result`."""
