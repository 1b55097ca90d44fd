"""From a finished run to a folder that answers without torch: ONNX graphs, their optimization, the parity gate."""
