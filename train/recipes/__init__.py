"""The programs: each checks and builds an experiment, then runs it."""
