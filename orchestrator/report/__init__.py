"""`mirage report`: runs as one page that can be read, sent and printed, with nothing in it that could run."""
