"""What a trained encoder is worth: probes at any layer."""
