"""The parts of the TensorRT builder; the device subset, for `edgellama finish` builds there."""
