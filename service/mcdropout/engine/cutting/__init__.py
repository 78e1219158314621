"""Cutting: where masks enter a graph, and what that divides it into; one algorithm for every form of graph."""
