"""Programs around lmajax: run them from a checkout with ``python -m train``."""
