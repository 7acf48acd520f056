"""The project as git has it: what is checked out, what differs from it, and the bytes of a commit."""
