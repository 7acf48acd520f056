"""What a team's services need beyond their programs; part of their image."""
