"""Read checkpoint files of any format as tensors and plain values. Executes nothing that a file contains."""
