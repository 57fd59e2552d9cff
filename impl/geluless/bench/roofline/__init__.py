"""A model of INT8 Swin latency on GPUs: predictions, never measurements. Every use says so and names the model's error."""
