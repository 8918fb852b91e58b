"""What can be chosen, and what it costs. No torch in here."""
