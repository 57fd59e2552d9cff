"""What the executor refuses: code it does not know, and code that does what no kernel may do."""


class PtxError(Exception):
    """Unknown PTX, or an illegal access, a missing barrier, a read of nothing. The message names instruction and thread."""
