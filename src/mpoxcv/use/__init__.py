"""Using what was trained: from Python, as ONNX, and what a network looked at."""
