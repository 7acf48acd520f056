"""What is asked of runs beyond a list: what differs, where things come from, what decided a key."""
