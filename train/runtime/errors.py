"""What a person at the keyboard can mend: one clear line, exit code 2, no traceback."""


class UserError(Exception):
  """Says what is wrong, where, and how to mend it, in one line."""
