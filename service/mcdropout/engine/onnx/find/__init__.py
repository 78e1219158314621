"""Finding: which nodes of a graph draw, and the sites that they are."""
