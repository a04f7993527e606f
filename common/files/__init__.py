"""Reading and writing: the command line's errors, npz, foreign files, videos, tables."""
