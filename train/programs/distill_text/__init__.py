"""Small Transformers under a large one."""
