"""Comparing what two runs made: by bytes first, then by what a format means, within a tolerance where one is given."""
