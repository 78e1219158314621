"""Processes: the server alone, or a supervisor and its workers."""
