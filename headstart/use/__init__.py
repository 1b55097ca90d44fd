"""What finished runs are for: answers, vectors, search, triples."""
