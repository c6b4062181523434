"""One chain: slim, distil, quantize and pack."""
