"""Training and scoring of several students at once."""
