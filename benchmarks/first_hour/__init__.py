"""The first hour: from a network that somebody brings to its first answer."""
