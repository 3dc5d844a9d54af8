"""Messages: their bytes, and what makes them fewer or keeps them secret."""
