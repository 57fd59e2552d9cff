"""Post-training quantization: observe, choose ranges, fold; one artifact out."""
