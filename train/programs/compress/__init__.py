"""Makes a network small in one chain: slim, distil, quantize and pack."""
