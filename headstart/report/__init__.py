"""What scores look like to people: pages, pictures, model cards. Computes no score."""
