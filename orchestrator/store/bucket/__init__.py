"""A bucket behind an S3 API: credentials, signed requests, retries, whole answers only. Knows nothing of blobs."""
