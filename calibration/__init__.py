"""Text and checkpoint to quantisation scales, and what the quantisation lost."""
