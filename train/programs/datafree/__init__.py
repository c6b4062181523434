"""Few bits without data: inputs made from a trained network tune the same network with quantized weights."""
