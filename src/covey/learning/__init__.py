"""What nodes learn: data, models, optimisers, and the kernels that compute them."""
